"""What the folder of a point says about it: whether it ended, how far it is, who works on it.

point.json   overrides, command and every attempt, written by the sweep
log.txt      what the attempts printed
lock         held by flock, by whoever runs the point and by its program, and let go by their death

Everything else is from run.py: a status.json for each arm and seed, and results.csv, which it
writes last.
"""

import contextlib
import fcntl
import json
import os
import socket
from pathlib import Path

# Arms are folders in the workdir, seeds are folders in these.
_DEPTHS = ("status.json", "*/status.json", "*/*/status.json")


def statuses(folder: Path) -> dict[Path, dict]:
    """{path: content} of every status.json of a run."""
    found = {}
    for pattern in _DEPTHS:
        for path in folder.glob(pattern):
            with contextlib.suppress(OSError, ValueError):
                found[path] = json.loads(path.read_text())
    return found


def record(folder: Path) -> dict:
    """point.json; {"attempts": []} if there is none."""
    try:
        return json.loads((folder / "point.json").read_text())
    except (OSError, ValueError):
        return {"attempts": []}


def write_record(folder: Path, content: dict):
    """Writes all of point.json or nothing."""
    part = folder / "point.json.part"
    part.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(part, folder / "point.json")


def ended(folder: Path) -> str | None:
    """ "done" or "diverged" if the whole run ended so, with all its arms and seeds; else None."""
    try:
        written = (folder / "results.csv").stat().st_mtime_ns
    except OSError:
        return None
    found = statuses(folder)
    if not found:  # Studies have no status.
        attempts = record(folder)["attempts"]
        return "done" if attempts and attempts[-1].get("code") == 0 else None
    kinds = {status["status"] for status in found.values()}
    newest = max(path.stat().st_mtime_ns for path in found)
    # An older table is that of a run that was then prolonged.
    if not kinds <= {"done", "diverged"} or newest > written:
        return None
    return "diverged" if "diverged" in kinds else "done"


def progress(folder: Path) -> tuple[int, int]:
    """Steps done, and of how many, over the arms and seeds that have begun."""
    found = statuses(folder).values()
    return sum(s.get("step", 0) for s in found), sum(s.get("steps", 0) for s in found)


def state(folder: Path) -> str:
    """done, diverged, running, failed, stopped, preempted, interrupted or waiting."""
    if how := ended(folder):
        return how
    if is_locked(folder):
        return "running"
    attempts = record(folder)["attempts"]
    return attempts[-1].get("end", "interrupted") if attempts else "waiting"


def evaluations(folder: Path, metric: str = "") -> dict[int, tuple[str, float]]:
    """{step: (name, value)} of the evaluations of a run without arms and seeds: of `metric`, by
    default of the validation loss, where there is none of the test loss."""
    found = {}
    with contextlib.suppress(OSError):
        for line in (folder / "metrics.jsonl").read_text().splitlines(keepends=True):
            row = json.loads(line) if line.endswith("\n") else {}  # Else it is being written.
            for name in [metric] if metric else ["validation_loss", "test_loss"]:
                if name in row:
                    found[row["step"]] = name, row[name]
                    break
    return found


def log_tail(folder: Path, lines: int = 8) -> list[str]:
    """The last lines that the last attempt printed."""
    attempts = record(folder)["attempts"]
    with contextlib.suppress(OSError), (folder / "log.txt").open("rb") as log:
        size = log.seek(0, os.SEEK_END)
        log.seek(max(attempts[-1]["log_from"] if attempts else 0, size - 20_000))
        return log.read().decode(errors="replace").splitlines()[-lines:]
    return []


def lock(folder: Path) -> int | None:
    """Takes the lock of a point: a descriptor to close or to give to a child; None if it is held.

    flock, so that it ends with the last process that has the descriptor, however that dies. On
    file systems of many machines it works where they have flock: NFS and Lustre, not gcsfuse.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
    return descriptor


def is_locked(folder: Path) -> bool:
    """Whether somebody works on the point."""
    try:
        descriptor = os.open(folder / "lock", os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def holder(folder: Path) -> str:
    """Process id and host that took the lock last."""
    with contextlib.suppress(OSError):
        return (folder / "lock").read_text().strip()
    return ""
