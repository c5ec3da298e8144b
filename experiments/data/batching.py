"""Batches as a pure function of (seed, step).

A resumed run sees the batches that the uninterrupted run would have seen, with no state to save:
the order of an epoch is drawn from (seed, epoch), the augmentation of a batch from (seed, step),
that of an encoded picture from (seed, step, row).
"""

import contextlib
import functools
import operator
from collections.abc import Iterator
from typing import Any

import numpy as np

from experiments.data import ahead, pictures
from experiments.data.pictures import Pictures
from experiments.data.sources import Dataset, Examples

AUGMENTS = ("none", "crop_flip", "resized_crop", "rand_augment")
OF_ARRAYS, OF_PICTURES = AUGMENTS[:2], pictures.AUGMENTS
PAD = 4  # pixels on each side; He et al. 2016, arXiv:1512.03385, section 4.2

# Purposes of random numbers, so that no two draws share a stream.
_ORDER, _AUGMENT, _PICTURE, _MIXUP = range(4)


def steps_per_epoch(split: Examples, batch_size: int) -> int:
    """Number of whole batches in an epoch; the incomplete last one is dropped."""
    if not 1 <= batch_size <= len(split):
        raise ValueError(
            f"`batch_size` lies between 1 and the {len(split)} examples of the split, "
            f"got {batch_size}."
        )
    return len(split) // batch_size


def batch(
    split: Examples,
    batch_size: int,
    seed: int,
    step: int,
    augment: str = "none",
    rows: np.ndarray | None = None,
) -> tuple[Any, Any]:
    """The batch of a step, counted from 0: inputs and targets, pytrees of arrays [B, ...]; of its
    rows only `rows`, if they are given.

    Each epoch visits the examples in a new random order without replacement; a batch lies within
    one epoch. `augment="crop_flip"`, of images in memory only, pads by 4 black pixels, crops at
    random and mirrors half of them; "resized_crop" and "rand_augment" are those of `Pictures`.
    """
    step = operator.index(step)  # also takes numpy's and jax's integers, but never a float
    if step < 0:
        raise ValueError(f"`step` counts from 0, got {step}.")
    known = OF_PICTURES if isinstance(split, Pictures) else OF_ARRAYS
    if augment not in known:
        raise ValueError(
            f"`augment` is one of {', '.join(known)} for {type(split).__name__}, got {augment!r}."
        )
    rows = np.arange(batch_size) if rows is None else rows
    if isinstance(split, Pictures):
        return pictures.stack(
            [_example(split, batch_size, seed, step, augment, row) for row in rows]
        )
    inputs, targets = split.take(_indices(split, batch_size, seed, step)[rows])
    if augment == "crop_flip":
        rng = _generator(seed, _AUGMENT, step)
        offsets = rng.integers(0, 2 * PAD + 1, size=(batch_size, 2))
        flips = rng.random(batch_size) < 0.5
        inputs = crop_flip(inputs, offsets[rows], flips[rows])
    return inputs, targets


def _indices(split, batch_size, seed, step):
    epoch, position = divmod(step, steps_per_epoch(split, batch_size))
    order = _epoch_order(len(split), seed, epoch)
    return order[position * batch_size : (position + 1) * batch_size]


def _example(split, batch_size, seed, step, augment, row):
    """One row of the batch of a step, of encoded pictures."""
    index = _indices(split, batch_size, seed, step)[row]
    return split.augmented(index, augment, _generator(seed, _PICTURE, step, int(row)))


def crop_flip(images: np.ndarray, offsets: np.ndarray, flips: np.ndarray) -> np.ndarray:
    """Pads by 4 black pixels, crops back to size, mirrors left to right where `flips`.

    Args:
        images: uint8 [B, H, W, C].
        offsets: int [B, 2], row and column where the crop starts, 0 to 8; (4, 4) is the identity.
        flips: bool [B].

    Returns:
        uint8 [B, H, W, C].
    """
    padded = np.pad(images, ((0, 0), (PAD, PAD), (PAD, PAD), (0, 0)))
    crops = np.lib.stride_tricks.sliding_window_view(padded, images.shape[1:3], axis=(1, 2))
    cropped = crops[np.arange(len(images)), offsets[:, 0], offsets[:, 1]]  # [B, C, H, W]
    cropped = cropped.transpose(0, 2, 3, 1)
    return np.where(flips[:, None, None, None], cropped[:, :, ::-1], cropped)


def mixup(
    images: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    alpha: float,
    seed: int,
    step: int,
    rows: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Mixes row i of the batch of a step with row i ^ 1, which in a random order is as good as any:
    w x_i + (1 - w) x_(i ^ 1), with one w ~ Beta(alpha, alpha) for the batch; the same of targets.

    Zhang et al. 2017, arXiv:1710.09412.

    Args:
        images: uint8 [B, H, W, C], those `rows` of the batch.
        labels: int [B].
        num_classes: K.
        alpha: positive; 1 is the uniform distribution, small ones seldom mix much.
        seed: of the batches.
        step: of this batch.
        rows: sorted int [B], 0, 1, 4, 5, ...: with each row its partner.

    Returns:
        Images uint8 [B, H, W, C], rounded, and probabilities float32 [B, K].

    Raises:
        ValueError: a row without its partner.
    """
    if len(rows) % 2 or np.any(rows[::2] % 2) or np.any(rows[::2] + 1 != rows[1::2]):
        raise ValueError(
            f"mixup needs pairs of rows (0, 1), (2, 3), ..., got {np.asarray(rows).tolist()}; let "
            "each device have an even number of rows of the batch."
        )
    weight = np.float32(_generator(seed, _MIXUP, step).beta(alpha, alpha))
    mixed = np.empty_like(images)
    for first in range(0, len(rows), 2):  # two by two, as long as they are in the cache
        x, y = images[first : first + 2].astype(np.float32)
        change = (1 - weight) * (y - x)
        mixed[first] = np.rint(x + change)
        mixed[first + 1] = np.rint(y - change)
    targets = np.zeros((len(labels), num_classes), np.float32)
    each = np.arange(len(labels))
    targets[each, labels] = weight
    targets[each, labels[each ^ 1]] += 1 - weight
    return mixed, targets


class Batches:
    """step -> the batch of that step: `batch`, and `mixup` with `alpha` > 0.

    Encoded pictures are decoded ahead of time for the steps to come, in order. Any other step can
    be asked for, for which they begin anew, and the last one again.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        seed: int,
        augment: str,
        rows: np.ndarray,
        alpha: float = 0.0,
    ):
        self._split = dataset.train
        self._num_classes = dataset.model_arguments.get("num_classes")
        self._arguments = batch_size, seed
        self._augment, self._rows, self._alpha = augment, rows, alpha
        self._step, self._last, self._iterator = None, None, None

    def __call__(self, step: int) -> tuple[Any, Any]:
        if step != self._step:
            self._last = self._read(step) if isinstance(self._split, Pictures) else self._make(step)
            self._step = step
        return self._last

    def close(self) -> None:
        """Stops what reads ahead; the next call would start it again."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None

    def _make(self, step):
        made = batch(self._split, *self._arguments, step, self._augment, self._rows)
        return self._mixed(step, *made)

    def _mixed(self, step, inputs, targets):
        if not self._alpha:
            return inputs, targets
        _, seed = self._arguments
        return mixup(inputs, targets, self._num_classes, self._alpha, seed, step, self._rows)

    def _read(self, step):
        if self._iterator is None or step != self._step + 1:
            self.close()
            make = functools.partial(
                _row, self._split, *self._arguments, step, self._augment, self._rows
            )
            finish = lambda k, examples: self._mixed(step + k, *pictures.stack(examples))
            self._iterator = ahead.batches(
                make, ahead.ENDLESS, len(self._rows), self._split.workers, finish
            )
        return next(self._iterator)


def _row(split, batch_size, seed, first_step, augment, rows, index):
    """Of all `rows` of one batch after another from `first_step` on, the one at `index`."""
    later, place = divmod(index, len(rows))
    return _example(split, batch_size, seed, first_step + later, augment, rows[place])


def eval_batches(
    split: Examples, batch_size: int, rows: np.ndarray | None = None
) -> Iterator[tuple[Any, Any, np.ndarray]]:
    """Yields (inputs, targets, mask float32 [B]), each example once, in order; of each batch only
    `rows`, if they are given. Encoded pictures are decoded ahead of time.

    The last batch is filled up with its last example where the mask is 0, so that one compilation
    serves all.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` is at least 1, got {batch_size}.")
    rows = np.arange(batch_size) if rows is None else rows
    starts = range(0, len(split), batch_size)
    with contextlib.ExitStack() as stack:
        if isinstance(split, Pictures):
            make = functools.partial(_eval_row, split, batch_size, rows)
            finish = lambda k, examples: pictures.stack(examples)
            made = ahead.batches(make, len(starts) * len(rows), len(rows), split.workers, finish)
            stack.callback(made.close)
        else:
            last = len(split) - 1
            made = (split.take(np.minimum(start + rows, last)) for start in starts)
        for start, (inputs, targets) in zip(starts, made, strict=True):
            yield inputs, targets, (start + rows < len(split)).astype(np.float32)


def _eval_row(split, batch_size, rows, index):
    number, place = divmod(index, len(rows))
    return split.example(min(number * batch_size + int(rows[place]), len(split) - 1))


@functools.lru_cache(maxsize=16)  # of several seeds, in two epochs where batches are made ahead
def _epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    order = _generator(seed, _ORDER, epoch).permutation(count)
    order.setflags(write=False)  # it is shared by all who ask for this epoch
    return order


def _generator(seed: int, *purpose: int) -> np.random.Generator:
    # Not `default_rng((seed, *purpose))`: seeds of more than 32 bits spill into `purpose`.
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=purpose))
