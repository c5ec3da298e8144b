"""Flax NNX layers with factors against Flax's own layers with the product of the factors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from matrices_of import gaussian

import orthojax
import orthojax.nn
from orthojax.bases import pull_back
from orthojax.matrices import named


class Scaled(nnx.Linear):
    """Does more than its base class, so that a `LowRank` in its place would be wrong."""

    def __call__(self, inputs):
        return 2 * super().__call__(inputs)


class Einsum(nnx.Module):
    """A kernel that no `LowRank` is made of."""

    def __init__(self, rngs):
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (13, 11), jnp.float64))

    def __call__(self, inputs):
        return jnp.einsum("bi,io->bo", inputs, self.kernel[...])


def conv(*args, **options):
    return lambda **kw: nnx.Conv(*args, **options, **kw)


# Name: (layer, shape of its input, whether it is to multiply by the factors).
LAYERS = {
    "linear": (lambda **kw: nnx.Linear(13, 11, **kw), (40, 13), True),
    "linear_wide": (lambda **kw: nnx.Linear(9, 17, use_bias=False, **kw), (2, 30, 9), True),
    "full_rank": (lambda **kw: nnx.Linear(13, 11, **kw), (40, 13), False),
    "general": (lambda **kw: nnx.LinearGeneral(13, (3, 5), **kw), (40, 13), True),
    "axes": (lambda **kw: nnx.LinearGeneral((3, 5), 13, axis=(-1, 1), **kw), (40, 3, 2, 5), True),
    "attention": (lambda **kw: nnx.MultiHeadAttention(3, 15, decode=False, **kw), (9, 8, 15), True),
    "strides": (conv(3, 13, (3, 2), strides=(2, 1)), (2, 8, 8, 3), True),
    "valid": (conv(3, 13, (3, 2), padding="VALID"), (2, 8, 8, 3), True),
    "dilation": (conv(3, 13, (3, 2), kernel_dilation=2, use_bias=False), (2, 8, 8, 3), True),
    "circular": (conv(3, 13, (3, 2), padding="CIRCULAR"), (2, 8, 8, 3), True),
    "pointwise": (conv(11, 13, (1, 1)), (2, 8, 8, 11), True),
    "wide_conv": (conv(3, 29, (2, 2)), (2, 8, 8, 3), True),
    "line": (conv(5, 13, (3,)), (3, 17, 5), True),
    "grouped": (conv(6, 14, (3, 3), feature_group_count=2), (2, 8, 8, 6), False),
    "derived": (lambda **kw: Scaled(13, 11, **kw), (40, 13), False),
    "unknown": (lambda rngs, **_: Einsum(rngs), (40, 13), False),
}
RULES = [
    ("line/kernel", orthojax.MatrixAxes((0, 1), 2)),
    ("axes/kernel", orthojax.MatrixAxes((0, 1), 2)),
    ("general/kernel", orthojax.MatrixAxes(0, (1, 2))),
    (".*/kernel", "low_rank"),
    (".*", "dense"),
]


class Layers(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        kinds = {"param_dtype": jnp.float64, "rngs": rngs}
        self.layers = nnx.Dict({name: make(**kinds) for name, (make, _, _) in LAYERS.items()})

    def __call__(self, inputs):
        return {name: layer(inputs[name]) for name, layer in self.layers.items()}


def split(model):
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    return graphdef, nnx.to_pure_dict(params), rest


@pytest.fixture(scope="module")
def layers():
    """Outputs and gradients of all `LAYERS`, in factors and dense, and what they were made of."""
    with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
        graphdef, params, rest = split(Layers())
        # Biases are initialized by zero, which would hide them.
        params = orthojax.matrices.map_named(
            lambda name, x: x if name.endswith("kernel") else jnp.asarray(gaussian(3, x.shape)),
            params,
        )
        method = orthojax.OIALR(delay=0, every=1, rules=RULES_FOR(graphdef), rank=third)
        inputs = {name: jnp.asarray(gaussian(i, s)) for i, (name, (_, s, _)) in enumerate(LAYERS.items())}
