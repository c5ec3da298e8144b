"""Batches as a pure function of (seed, step).

A resumed run sees the batches that the uninterrupted run would have seen, with no state to save:
the order of an epoch is drawn from (seed, epoch), the augmentation of a batch from (seed, step).
"""

import functools
import operator
from collections.abc import Iterator
from typing import Any

import numpy as np

from experiments.data.sources import Examples

AUGMENTS = ("none", "crop_flip")
PAD = 4  # pixels on each side; He et al. 2016, arXiv:1512.03385, section 4.2

# Purposes of random numbers, so that no two draws share a stream.
_ORDER, _AUGMENT = 0, 1


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
    one epoch. `augment="crop_flip"`, of images only, pads by 4 black pixels, crops at random and
    mirrors half of them.
    """
    step = operator.index(step)  # also takes numpy's and jax's integers, but never a float
    if step < 0:
        raise ValueError(f"`step` counts from 0, got {step}.")
    if augment not in AUGMENTS:
        raise ValueError(f"`augment` is one of {', '.join(AUGMENTS)}, got {augment!r}.")
    epoch, position = divmod(step, steps_per_epoch(split, batch_size))
    order = _epoch_order(len(split), seed, epoch)
    rows = np.arange(batch_size) if rows is None else rows
    inputs, targets = split.take(order[position * batch_size + rows])
    if augment == "crop_flip":
        rng = _generator(seed, _AUGMENT, step)
        offsets = rng.integers(0, 2 * PAD + 1, size=(batch_size, 2))
        flips = rng.random(batch_size) < 0.5
        inputs = crop_flip(inputs, offsets[rows], flips[rows])
    return inputs, targets


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


def eval_batches(
    split: Examples, batch_size: int, rows: np.ndarray | None = None
) -> Iterator[tuple[Any, Any, np.ndarray]]:
    """Yields (inputs, targets, mask float32 [B]), each example once, in order; of each batch only
    `rows`, if they are given.

    The last batch is filled up with its last example where the mask is 0, so that one compilation
    serves all.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` is at least 1, got {batch_size}.")
    for start in range(0, len(split), batch_size):
        indices = start + (np.arange(batch_size) if rows is None else rows)
        mask = (indices < len(split)).astype(np.float32)
        yield *split.take(np.minimum(indices, len(split) - 1)), mask


@functools.lru_cache(maxsize=4)
def _epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    order = _generator(seed, _ORDER, epoch).permutation(count)
    order.setflags(write=False)  # it is shared by all who ask for this epoch
    return order


def _generator(seed: int, purpose: int, index: int) -> np.random.Generator:
    # Not `default_rng((seed, purpose, index))`: seeds of more than 32 bits spill into `purpose`.
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(purpose, index)))
