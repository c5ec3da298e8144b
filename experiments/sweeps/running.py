"""Runs one point in a program of its own, to its end: the same command resumes it after a failure.

run.py's exit codes: 0 done; 1 with status diverged, diverged; 2 a mistake in the configuration;
75 preempted, saved, to be run again; others a failure, after which it is tried again.
"""

import contextlib
import datetime
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from experiments.sweeps import files
from experiments.sweeps.points import Point

PREEMPTED = 75  # EX_TEMPFAIL
MISTAKE = 2
_LAUNCH = Path(__file__).with_name("launch.py")


class Runner:
    """One point under way. It never blocks: `start` it, then `poll` it until it says how it ended.

    Args:
      point: what to run.
      retries: how often it may fail and be tried again; a preemption does not count unless nothing
        was done since the last one.
      cores: those to run on; all by default.
      again: whether to run it again after a preemption. Without it the end is "preempted".
      keep: descriptors that the program keeps open too, e.g. locks of its cores.
    """

    def __init__(self, point: Point, retries: int = 2, cores=(), again: bool = True, keep=()):
        self.point, self._retries, self._again = point, retries, again
        self._cores, self._keep = cores, tuple(keep)
        self._lock = self._process = self._end = None
        self._stopping = ""
        self._failures, self._preempted_at = 0, -1

    def start(self) -> bool:
        """Starts the program; False if somebody else runs this point."""
        self._end = files.ended(self.point.folder)
        if self._end:
            return True
        self._lock = files.lock(self.point.folder)
        if self._lock is None:
            return False
        if end := files.ended(self.point.folder):  # While we looked.
            self._finish(end)
        else:
            self._launch()
        return True

    def poll(self) -> str | None:
        """done, diverged, failed, stopped or preempted; None as long as the point runs."""
        if self._end is None and self._process is not None:
            code = self._process.poll()
            if code is not None:
                self._after(code)
        return self._end

    def stop(self, reason: str = "stopped"):
        """Asks the program to save and end, which `poll` then says; a second time, to end now."""
        self._stopping = reason
        if self._end is None and self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()

    def _launch(self):
        folder, command = self.point.folder, list(self.point.command)
        content = {"overrides": self.point.overrides, "command": command}
        content["attempts"] = files.record(folder)["attempts"]
        log = folder / "log.txt"
        began = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        attempt = {"began": began, "host": socket.gethostname()}
        attempt["log_from"] = log.stat().st_size if log.exists() else 0
        files.write_record(folder, content | {"attempts": [*content["attempts"], attempt]})
        cores = ",".join(map(str, self._cores))
        launch = [sys.executable, str(_LAUNCH), str(os.getpid()), cores]
        with log.open("ab") as output:
            # A session of its own: Ctrl-C reaches only the sweep, which then says SIGTERM once.
            self._process = subprocess.Popen(
                [*launch, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(self._lock, *self._keep),
                start_new_session=True,
            )
        self._began = time.monotonic()

    def _after(self, code):
        folder = self.point.folder
        end, message = files.ended(folder), ""
        if end is None and self._stopping:
            end, message = "stopped", self._stopping
        elif end is None and code == PREEMPTED:
            step, _ = files.progress(folder)
            end = "preempted"
            if step <= self._preempted_at:
                end, message = "failed", f"preempted twice at step {step}"
            self._preempted_at = step
        elif end is None and code == 0:
            end, message = "failed", "it ended with code 0 and without results.csv"
            if not files.statuses(folder) and (folder / "results.csv").exists():
                end, message = "done", ""  # A study.
        elif end is None:
            signal_number = f"signal {-code}" if code < 0 else f"code {code}"
            end, message = "failed", f"it ended with {signal_number}"
        content = files.record(folder)
        content["attempts"][-1] |= {
            "code": code,
            "end": end,
            "seconds": round(time.monotonic() - self._began, 1),
        } | ({"message": message} if message else {})
        files.write_record(folder, content)
        self._failures += end == "failed"
        hopeless = code == MISTAKE or self._failures > self._retries
        if (end == "preempted" and self._again) or (end == "failed" and not hopeless):
            self._launch()
        else:
            self._finish(end)

    def _finish(self, end):
        self._end = end
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def finish(point: Point, say=lambda text: None, every: float = 0.2, **options) -> str:
    """Runs a point to its end and returns how it ended; waits while somebody else runs it.

    SIGTERM and SIGINT are passed on as SIGTERM, once: the point is saved, the end is "stopped".
    """
    runner = Runner(point, **options)
    stopping = []
    with _signals(lambda number: stopping.append(number)):
        waited = False
        while not runner.start():
            if not waited:
                say(f"{point.name}: waiting for process {files.holder(point.folder)}")
            waited = True
            if stopping:
                return "stopped"
            time.sleep(max(every, 0.5))
        asked = 0
        while (end := runner.poll()) is None:
            if len(stopping) > asked:
                asked = len(stopping)
                runner.stop(f"signal {stopping[-1]}")
            time.sleep(every)
    return end


def follow(point: Point, log_name: str) -> str:
    """Runs the program of a point once, and returns how it ended: on one of many hosts that run the
    point together, of which another keeps the record and the lock."""
    point.folder.mkdir(parents=True, exist_ok=True)
    with (point.folder / log_name).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, str(_LAUNCH), str(os.getpid()), "", *point.command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        stopping = []

        def stop(number):
            stopping.append(number)
            process.terminate()

        with _signals(stop):
            code = process.wait()
    if code == 0:
        return "done"
    if stopping:
        return "stopped"
    return files.ended(point.folder) or ("preempted" if code == PREEMPTED else "failed")


@contextlib.contextmanager
def _signals(act):
    """Calls `act` with the number of each SIGINT and SIGTERM; in the main thread only."""
    try:
        usual = {
            n: signal.signal(n, lambda number, _: act(number))
            for n in (signal.SIGINT, signal.SIGTERM)
        }
    except ValueError:  # Another thread: who started it passes signals on.
        usual = {}
    try:
        yield
    finally:
        for number, action in usual.items():
            signal.signal(number, action)
