"""Data sets as arrays in memory, and batches that are a pure function of (seed, step).

    dataset = data.load("mnist_5k")
    inputs, targets = data.batch(dataset.train, batch_size=128, seed=0, step=1234)

`mnist_5k` comes with an installed package and `copying` is computed; the other sets are read from a
tfds directory, which `scripts/prepare_data.py` makes. TensorFlow is not needed for either.
"""

from experiments.data.batching import AUGMENTS, batch, crop_flip, eval_batches, steps_per_epoch
from experiments.data.sources import NAMES, Dataset, Split, load, options

__all__ = [
    "AUGMENTS",
    "NAMES",
    "Dataset",
    "Split",
    "batch",
    "crop_flip",
    "eval_batches",
    "load",
    "options",
    "steps_per_epoch",
]
