"""One run in several processes, a host each: how they find each other, and stop together.

Every process runs the same program. Process 0 alone writes, but for the checkpoints, which all
write together: the workdir is on a disk that all of them see.
"""

import contextlib
import os
import signal
import socket
import sys
import time
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows.
    fcntl = None

import jax
from absl import flags
from jax.experimental import multihost_utils

from experiments.configuration import ConfigurationError

_DISTRIBUTED = flags.DEFINE_enum(
    "distributed",
    "auto",
    ["auto", "yes", "no"],
    "Whether this is one of several processes, started alike on each host. auto: if one of the "
    "flags below is given, or Slurm, Open MPI or a TPU pod say so; there no flag is needed.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "host:port of process 0, e.g. 10.0.0.1:1234; the same for all processes."
)
_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many there are.", lower_bound=1)
_PROCESS = flags.DEFINE_integer("process_id", None, "Which one this is, from 0.", lower_bound=0)
_TIMEOUT = flags.DEFINE_integer(
    "initialization_timeout", 300, "Seconds to wait for all processes to begin.", lower_bound=1
)
_HEARTBEAT = flags.DEFINE_integer(
    "heartbeat_timeout", 100, "Seconds until the others notice that one is gone.", lower_bound=1
)

# os.EX_TEMPFAIL, "try again later", as systemd, sendmail and batch systems read it.
RUN_ME_AGAIN = 75


def _is_distributed():
    if _DISTRIBUTED.value != "auto":
        return _DISTRIBUTED.value == "yes"
    get = os.environ.get
    return (
        any(flag.value is not None for flag in (_COORDINATOR, _PROCESSES, _PROCESS))
        or "JAX_COORDINATOR_ADDRESS" in os.environ
        or ("SLURM_PROCID" in os.environ and int(get("SLURM_NTASKS", "1")) > 1)
        or int(get("OMPI_COMM_WORLD_SIZE", "1")) > 1
        or "," in get("TPU_WORKER_HOSTNAMES", "")
    )


def initialize():
    """Waits for the other processes of the run, if this is one of several, and says so.

    Before anything else of jax. Raises `ConfigurationError` if nobody is where process 0 should be.
    If others do not come in time, jax itself ends the process.
    """
    if not _is_distributed():
        return
    count, own, coordinator = _PROCESSES.value, _PROCESS.value, _COORDINATOR.value
    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    given = [count is not None, own is not None]
    if any(given) and not (all(given) and coordinator):
        raise ConfigurationError(
            "--coordinator=host:port, --num_processes and --process_id go together, got "
            f"{coordinator}, {count} and {own}; on TPU pods, Slurm and Open MPI none is needed."
        )
    if all(given) and not own < count:
        raise ConfigurationError(f"--process_id={own} must be below --num_processes={count}.")
    if own and coordinator:
        _wait_for(coordinator, _TIMEOUT.value)
    whom = f"{count} processes" if count else "all processes that the cluster names"
    where = f" at {coordinator}" if coordinator else ""
    _say(f"waiting up to {_TIMEOUT.value} s for {whom}{where}")
    began = time.monotonic()
    try:
        jax.distributed.initialize(
            coordinator,
            count,
            own,
            initialization_timeout=_TIMEOUT.value,
            heartbeat_timeout_seconds=_HEARTBEAT.value,
        )
    except (RuntimeError, ValueError) as error:
        raise ConfigurationError(
            f"--distributed: {str(error).splitlines()[0]}; give --coordinator, --num_processes and "
            "--process_id where no cluster says them."
        ) from error
    _say(
        f"process {jax.process_index()} of {jax.process_count()} after "
        f"{time.monotonic() - began:.0f} s, {jax.local_device_count()} of {jax.device_count()} "
        f"{jax.devices()[0].device_kind} devices"
    )
    if not is_first():
        # One voice, to the end of the program.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def _wait_for(coordinator, seconds):
    """Returns when somebody listens at `coordinator`: jax would end the process after its wait."""
    host, _, port = coordinator.rpartition(":")
    _say(f"waiting up to {seconds} s for process 0 at {coordinator}")
    deadline = time.monotonic() + seconds
    while True:
        try:
            with socket.create_connection((host, int(port)), timeout=1):
                return
        except (OSError, ValueError) as error:
            if time.monotonic() > deadline or isinstance(error, ValueError):
                raise ConfigurationError(
                    f"--coordinator={coordinator}: {error}; process 0 is started by the same "
                    "command with --process_id=0, on that host and port."
                ) from error
            time.sleep(0.2)


def _say(text):
    print(f"{socket.gethostname()}: {text}", file=sys.stderr, flush=True)


def is_first() -> bool:
    """Whether this is the process that writes."""
    return jax.process_index() == 0


def wait_for_all(what):
    """Returns when every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


@contextlib.contextmanager
def alone_in(workdir: Path):
    """Holds `workdir` for this run; raises `ConfigurationError` if another one has it.

    The lock is the process's: whatever ends it, even kill -9, leaves the directory free.
    """
    if not is_first() or fcntl is None:
        yield
        return
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ConfigurationError(
                f"{workdir} is in use by {file.read().strip() or 'another process'}; wait for it "
                "or give another --workdir."
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            if [path.name for path in workdir.iterdir()] == [".lock"]:  # A mistake, found early.
                (workdir / ".lock").unlink()
                workdir.rmdir()


class Stop:
    """Whether SIGINT or SIGTERM came, to any process; a second one acts as usual. A context."""

    def __enter__(self):
        self.number = None
        if jax.process_count() == 1:
            self._usual = {n: signal.signal(n, self._note) for n in (signal.SIGINT, signal.SIGTERM)}
        else:
            # jax's own handler of SIGTERM tells the other processes, and on TPUs so does the
            # notice of a preemption.
            forward = lambda *_: os.kill(os.getpid(), signal.SIGTERM)
            self._usual = {signal.SIGINT: signal.signal(signal.SIGINT, forward)}
        return self

    def _note(self, number, _):
        self.number = number
        signal.signal(number, self._usual[number])

    def __exit__(self, *_):
        for number, action in self._usual.items():
            signal.signal(number, action)

    def is_due(self, step) -> bool:
        """Whether to stop after `step`, the same answer in all processes; to be asked each step."""
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
            self.number = signal.SIGTERM
        return self.number is not None
