"""Batches of what takes long to make, made ahead of time by grain, in order."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from absl import flags

ENDLESS = 1 << 62
WAITING = 2  # whole batches made ahead, beside the examples of one more


def batches(
    make: Callable[[int], Any],
    count: int,
    size: int,
    workers: int,
    finish: Callable[[int, list], Any],
):
    """Returns the iterator of `finish(k, [make(k * size), ..., make((k + 1) * size - 1)])` for
    k = 0, 1, ..., whose `close()` stops all that runs for it.

    Args:
        make: index -> example; called from many threads. With `workers` > 1 it is pickled.
        count: of examples, a multiple of `size`; or `ENDLESS`.
        size: examples of a batch.
        workers: processes that make them; 1 for threads of this one, as many as it has cores.
        finish: (number of the batch, its examples) -> batch; called in one thread of this process.
    """
    import grain  # one second that arrays need not wait for

    threads = _cores() if workers == 1 else 1
    buffered = -(-size // workers)
    examples = (
        grain.MapDataset.range(count)
        .map(make)
        .to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=buffered))
    )
    if workers > 1:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # grain reads some for its processes
        options = grain.MultiprocessingOptions(workers, per_worker_buffer_size=buffered)
        examples = examples.mp_prefetch(options, _start_worker)
    made = examples.batch(size, batch_fn=list).map_with_index(finish)
    return iter(grain.experimental.ThreadPrefetchIterDataset(made, prefetch_buffer_size=WAITING))


def _cores():
    # Those that this process may use, where the system says so.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _start_worker(index, count):
    """In a new worker: it ends with the process that it works for, not by the signals that a
    terminal or a scheduler sends to both, for that one goes on until its state is saved."""
    del index, count
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)
