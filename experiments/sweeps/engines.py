"""Where the points run: programs on this machine, tasks of Ray, or one point, for arrays of jobs.

Each engine runs every point that has not ended to its end and returns {name: end}; `watch` is
called again and again meanwhile. Ends are those of `running.Runner.poll`.
"""

import collections
import contextlib
import math
import os
import signal
import time

from experiments.sweeps import cores, files, running
from experiments.sweeps.points import Point

FAILED = 70  # EX_SOFTWARE


class Stopped(Exception):
    """A signal ended the sweep; the points under way are saved."""

    def __init__(self, signal_number):
        super().__init__(f"stopped by signal {signal_number}")
        self.signal_number = signal_number


@contextlib.contextmanager
def stop_signals():
    """Yields a list to which SIGINT and SIGTERM are added; a second one acts as usual."""
    received = []

    def note(number, _):
        received.append(number)
        signal.signal(number, usual[number])

    usual = {n: signal.signal(n, note) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, action in usual.items():
            signal.signal(number, action)


def run_local(points: list[Point], watch, *, workers: int = 1, retries: int = 2, every=0.2):
    """`workers` programs at a time on this machine, each on its part of the cores.

    Points that another sweep runs are left to it and looked at again when the others have ended.
    """
    waiting, ends = collections.deque(points), {}
    free = collections.deque(cores.shares(workers))
    under_way = {}  # {Runner: its cores}
    asked = False
    with stop_signals() as stop:
        while waiting or under_way:
            for _ in range(0 if stop else len(waiting)):
                if not free:
                    break
                point = waiting.popleft()
                runner = running.Runner(point, retries, free[0])
                if runner.start():
                    under_way[runner] = free.popleft()
                else:
                    waiting.append(point)
            for runner in [runner for runner in under_way if runner.poll()]:
                ends[runner.point.name] = runner.poll()
                free.append(under_way.pop(runner))
            if stop and not asked:
                asked = True
                waiting.clear()
                for runner in under_way:
                    runner.stop(f"signal {stop[0]}")
            watch()
            if waiting or under_way:
                time.sleep(every)
        if stop:
            raise Stopped(stop[0])
    return ends


def run_ray(
    points: list[Point],
    watch,
    *,
    workers: int = 1,
    retries: int = 2,
    address: str | None = None,
    cpus: float = 1,
    gpus: float = 0,
    every=0.2,
):
    """A task of Ray for each point, in a cluster of this machine or in that at `address`.

    A task whose worker dies is started again, up to `retries` times, perhaps elsewhere, where the
    point goes on from its checkpoint. All machines need this folder and the workdir under the same
    paths.

    Args:
      workers: at a time, in the cluster of this machine; elsewhere what the needs allow.
      cpus, gpus: that a point needs. A whole number of cpus is also so many cores of its own.
    """
    import ray

    connect(ray, workers, address, cpus, gpus)

    @ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=retries)
    def run(point):
        return in_worker(point, cpus, retries=retries)

    ends = {}
    under_way = {run.remote(p): p for p in points if not _note_end(p, ends)}
    stopped = 0
    with stop_signals() as stop:
        while under_way:
            ready, _ = ray.wait(list(under_way), timeout=every)
            for task in ready:
                point = under_way.pop(task)
                try:
                    ends[point.name] = ray.get(task)
                except ray.exceptions.RayError as error:  # Dead too often, or cancelled.
                    ends[point.name] = "stopped" if stop else "failed"
                    _note_death(point, ends[point.name], error)
            if stop and not stopped:
                stopped = stop[0]
                for task in under_way:
                    ray.cancel(task, force=False)
            watch()
    if address is None:
        ray.shutdown()
    if stopped:
        raise Stopped(stopped)
    return ends


def connect(ray, workers, address, cpus, gpus):
    """To the cluster at `address`, or to one of this machine that is just large enough."""
    here = {"include_dashboard": False, "object_store_memory": 100 * 2**20}  # Nothing goes there.
    here |= {"num_cpus": max(1, math.ceil(workers * cpus)), "num_gpus": math.ceil(workers * gpus)}
    # Ray would kill the programs of its workers, which have to save.
    os.environ.setdefault("RAY_kill_child_processes_on_worker_exit", "0")
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if address:
        ray.init(address=address, **quiet)
        return
    for attempt in range(3):
        try:
            ray.init(address="local", **quiet, **here)
            return
        except Exception:  # "timed out during startup": 30 s are short on a busy machine.
            ray.shutdown()
            if attempt == 2:
                raise


def in_worker(point, cpus, **options):
    """A point in a task of Ray, on cores of its own where `cpus` is a whole number of them."""
    own, locks = cores.take(int(cpus)) if cpus >= 1 and cpus == int(cpus) else ([], [])
    try:
        return running.finish(point, cores=own, keep=locks, **options)
    finally:
        cores.release(locks)


def _note_end(point, ends):
    if end := files.ended(point.folder):
        ends[point.name] = end
    return end


def _note_death(point, end, error):
    """What the worker could not write itself."""
    content = files.record(point.folder)
    if content["attempts"] and "end" not in content["attempts"][-1]:
        message = f"{type(error).__name__}: its worker died" if end == "failed" else ""
        content["attempts"][-1] |= {"end": end, "message": message}
        files.write_record(point.folder, content)


def run_index(
    points: list[Point], number: int | None, *, retries: int = 2, host: int | None = None
):
    """Runs one point; its number is `number`, SLURM_ARRAY_TASK_ID or JOB_COMPLETION_INDEX.

    Args:
      number: from 0 on, in the order of the list.
      host: of several that run this point together, which one this is. Then nothing is tried again
        here, as all have to start anew; host 0 keeps the record and the lock.

    Returns:
      The end and an exit code that says whether to run it again: 0 done; no: 1 diverged, 2 a
      mistake; yes: 75 (EX_TEMPFAIL) preempted or stopped, and saved, 70 (EX_SOFTWARE) failed.
    """
    point = points[point_number(number, len(points))]
    if host:
        end = files.ended(point.folder) or running.follow(point, f"log_{host}.txt")
    else:
        tries = 0 if host is not None else retries
        end = running.finish(point, say=print, retries=tries, again=False)
        attempts = files.record(point.folder)["attempts"]
        if end == "failed" and attempts[-1]["code"] == running.MISTAKE:
            return end, running.MISTAKE
    saved = {"preempted": running.PREEMPTED, "stopped": running.PREEMPTED}
    return end, {"done": 0, "diverged": 1, "failed": FAILED, **saved}[end]


def point_number(number: int | None, count: int) -> int:
    """`number`, or that which Slurm or Kubernetes gave. Raises ValueError."""
    names = ("SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX")
    given = next((os.environ[name] for name in names if name in os.environ), None)
    if number is None and given is None:
        raise ValueError(f"--engine=index needs --index=<number>, or {' or '.join(names)} set.")
    number = int(given) if number is None else number
    if not 0 <= number < count:
        raise ValueError(f"--index={number}: there are points 0 to {count - 1}.")
    return number
