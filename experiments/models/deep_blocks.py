"""Perceptrons of any depth from blocks of two kernels, or of folds, by what they start from."""

import functools
import math

import jax.numpy as jnp
from flax import nnx

from experiments.models.layers import ENDS_INITS
from orthojax import persistent
from orthojax.nn.isometric import Fold, IsometricDense
from orthojax.nn.residual import Fixup, persistent_stack
from orthojax.nn.stack import Repeat, Stack

# {name: (residual, (key, depth, width, k) -> `orthojax.persistent.Persistent`)}
PERSISTENT = {
    "kaiming": (False, lambda key, depth, width, k: persistent.kaiming(key, depth, width)),
    "kaiming_residual": (True, lambda key, depth, width, k: persistent.kaiming(key, depth, width)),
    "independent": (False, lambda key, depth, width, k: persistent.independent(key, depth, width)),
    "independent_scaled": (
        False,
        lambda key, depth, width, k: persistent.independent(key, depth, width, math.sqrt(2)),
    ),
    "shared": (False, lambda key, depth, width, k: persistent.shared(key, depth, width, k or None)),
    "block": (False, persistent.block),
    "looks_linear": (
        False,
        lambda key, depth, width, k: persistent.looks_linear(key, depth, width),
    ),
    "projection": (True, persistent.projection),
    "shared_residual": (
        True,
        lambda key, depth, width, k: persistent.shared(key, depth, width, k or None, residual=True),
    ),
    "block_residual": (True, functools.partial(persistent.block, residual=True)),
    "projection_feedforward": (False, functools.partial(persistent.projection, residual=False)),
    "rezero": (True, lambda key, depth, width, k: persistent.kaiming(key, depth, width)),
}

# {name: (width, folds, rngs) -> layer with an orthogonal Jacobian}
ISOMETRIC = {
    "fold": lambda width, folds, rngs: Fold(width, folds or None, rngs=rngs),
    "isometric_dense": lambda width, folds, rngs: IsometricDense(width, rngs=rngs),
}

BLOCKS = (*PERSISTENT, "fixup", *ISOMETRIC)

SHARINGS = ("none", "initial", "tied")


def make_isometric(block, depth, width, folds, sharing, rngs):
    """A `Stack` or `Repeat` of one of the layers `ISOMETRIC`; see `DeepBlocks`."""
    if sharing == "tied":
        return Repeat(ISOMETRIC[block](width, folds, rngs), depth)
    if sharing == "initial":  # All draw their weights from one key.
        keys = jnp.broadcast_to(rngs.params(), (depth,))
        make = lambda rngs, key: ISOMETRIC[block](width, folds, nnx.Rngs(key))
        return Stack(make, depth, keys, rngs=rngs)
    return Stack(lambda rngs: ISOMETRIC[block](width, folds, rngs), depth, rngs=rngs)


class DeepBlocks(nnx.Module):
    """A linear layer, `depth` blocks of one width without normalization, and a linear head.

    Kernels: `embed/kernel` [H * W * C, width]; those of the blocks, one `Stack`:
    `hidden/layers/inner/kernel` [depth, width, width] and `outer/kernel` of blocks of two layers,
    `hidden/layers/kernel` [depth, width, folds] of folds, `kernel` and `out_kernel`
    [depth, width, width] of isometric layers, all without the axis of the depth if `sharing` is
    "tied"; `head/kernel` [width, num_classes]. A "projection" and a "block_residual" have k hidden
    units, a "projection_feedforward" 2 width - k.

    Args:
        width: n.
        depth: number of blocks, L.
        block: what a block is and what it starts from. x -> relu(x B + b) A + c: "kaiming",
            "independent" (orthogonal), "independent_scaled" (times sqrt 2), "shared", "block",
            "looks_linear", "projection_feedforward". x plus that: "kaiming_residual",
            "shared_residual", "block_residual", "projection", "fixup", whose head starts at 0,
            "rezero". See `orthojax.persistent` and `orthojax.nn.residual`. With an
            orthogonal Jacobian: "fold", "isometric_dense"; see `orthojax.nn.isometric`.
        k: dimension not kept by "block", "projection" and "shared" of either type; with 0, "shared"
            has no bias and keeps what is active, "shared_residual" what is not.
        folds: of a layer of "fold", at most the width; 0 for as many.
        sharing: of "fold" and "isometric_dense": "none"; "initial", where layers start from the
            same weights; "tied", where they have the same weights throughout.
        ends_init: of `embed` and `head`, one of `ENDS_INITS`.

    Raises:
        ValueError: `k`, `folds`, or `sharing` do not go with `block` or `width`.
    """

    def __init__(
        self,
        image_shape,
        num_classes,
        *,
        width,
        depth,
        block,
        k,
        folds,
        sharing,
        ends_init,
        rngs,
    ):
        if sharing != "none" and block not in ISOMETRIC:
            raise ValueError(
                f"`sharing` is for {' and '.join(ISOMETRIC)}, got {sharing} for block={block}; set "
                "it to none."
            )
        ends = ENDS_INITS[ends_init]
        self.embed = nnx.Linear(math.prod(image_shape), width, kernel_init=ends, rngs=rngs)
        if block in ISOMETRIC:
            self.hidden = make_isometric(block, depth, width, folds, sharing, rngs)
        elif block == "fixup":
            self.hidden = Stack(lambda rngs: Fixup(width, depth=depth, rngs=rngs), depth, rngs=rngs)
        else:
            residual, initial = PERSISTENT[block]
            self.hidden = persistent_stack(
                initial(rngs.params(), depth, width, k),
                residual=residual,
                multiplier=0.0 if block == "rezero" else None,
            )
        head_init = nnx.initializers.zeros if block == "fixup" else ends
        self.head = nnx.Linear(width, num_classes, kernel_init=head_init, rngs=rngs)

    def __call__(self, images):
        x = images.reshape(images.shape[0], -1)
        return self.head(self.hidden(self.embed(x)))
