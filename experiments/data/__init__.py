"""Data sets as arrays in memory, and batches that are a pure function of (seed, step).

    dataset = data.load("mnist_5k")
    inputs, targets = data.batch(dataset.train, batch_size=128, seed=0, step=1234)

`mnist_5k` comes with an installed package and `copying` is computed; the other sets are read from a
tfds directory, which `scripts/prepare_data.py` makes. TensorFlow is not needed for either. The
pictures of `imagenet2012` stay encoded; `Batches` decodes those of the next steps ahead of time.
"""

from experiments.data.batching import (
    AUGMENTS,
    OF_ARRAYS,
    OF_PICTURES,
    Batches,
    batch,
    crop_flip,
    eval_batches,
    mixup,
    steps_per_epoch,
)
from experiments.data.pictures import Pictures
from experiments.data.sources import NAMES, Dataset, Split, load, options

__all__ = [
    "AUGMENTS",
    "NAMES",
    "OF_ARRAYS",
    "OF_PICTURES",
    "Batches",
    "Dataset",
    "Pictures",
    "Split",
    "batch",
    "crop_flip",
    "eval_batches",
    "load",
    "mixup",
    "options",
    "steps_per_epoch",
]
