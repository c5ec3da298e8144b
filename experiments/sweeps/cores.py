"""Cores for points that run side by side on one machine, so that they do not fight for them."""

import fcntl
import itertools
import os
import tempfile
from pathlib import Path


def available() -> list[int]:
    """The cores that this process may use; none where the system does not say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def shares(workers: int, cores=None) -> list[list[int]]:
    """A part of the cores for each of `workers`: equal parts, or one core each and some twice."""
    cores = available() if cores is None else cores
    if not cores:
        return [[] for _ in range(workers)]
    if workers > len(cores):
        return [[cores[i % len(cores)]] for i in range(workers)]
    ends = [len(cores) * i // workers for i in range(workers + 1)]
    return [cores[a:b] for a, b in itertools.pairwise(ends)]


def take(count: int) -> tuple[list[int], list[int]]:
    """Returns `count` cores that nobody else on this machine took, and the locks that keep them.

    For workers that know nothing of each other, as Ray's: the locks, of flock, are let go when the
    last process that has these descriptors ends. ([], []) if not so many are free.
    """
    folder = Path(tempfile.gettempdir()) / f"orthojax_cores_{os.getuid()}"
    folder.mkdir(exist_ok=True)
    cores, locks = [], []
    for core in available():
        if len(cores) == count:
            break
        descriptor = os.open(folder / str(core), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        cores.append(core)
        locks.append(descriptor)
    if len(cores) < count:
        release(locks)
        return [], []
    return cores, locks


def release(locks):
    """Gives back what `take` took, as soon as no child has it either."""
    for descriptor in locks:
        os.close(descriptor)
