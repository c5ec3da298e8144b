"""Convolutional network of any depth at one resolution."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.models.layers import ACTIVATIONS, NORMS
from orthojax import persistent
from orthojax.initializers import orthogonal
from orthojax.matrices import MatrixAxes
from orthojax.nn.stack import Stack

WINDOW = (3, 3)


def _normal(key, depth, width, variance):
    """Stacked kernels of a variance of variance / fan_in."""
    std = math.sqrt(variance / (math.prod(WINDOW) * width))
    return std * jax.random.normal(key, (depth, *WINDOW, width, width))


def _centred(taps):
    """Stacked kernels with these matrices [depth, in, out] at the centre, and zeros around them."""
    depth, *sizes = taps.shape
    return jnp.zeros((depth, *WINDOW, *sizes), taps.dtype).at[:, 1, 1].set(taps)


def he_normal(key, depth, width):
    first, second = jax.random.split(key)
    return _normal(first, depth, width, 2.0), _normal(second, depth, width, 1.0)


def delta_orthogonal(key, depth, width):
    """Haar matrices: Xiao et al. 2018, arXiv:1806.05393."""
    init = orthogonal(axes=MatrixAxes(-2, -1))
    return tuple(_centred(init(k, (depth, width, width))) for k in jax.random.split(key))


def fixup(key, depth, width):
    """Zhang, Dauphin, Ma 2019, arXiv:1901.09321, with biases of channels instead of scalars."""
    return _normal(key, depth, width, 2.0 / depth), _centred(jnp.zeros((depth, width, width)))


def shared(key, depth, width):
    blocks = persistent.shared(key, depth, width)
    return _centred(blocks.inner), _centred(blocks.outer)


def projection(key, depth, width):
    blocks = persistent.projection(key, depth, width, k=width // 2)
    return _centred(blocks.inner), _centred(blocks.outer)


# {name: (key, depth, width) -> the first and the second kernels [depth, 3, 3, in, out] of blocks}
WEIGHTS = {
    "he_normal": he_normal,
    "delta_orthogonal": delta_orthogonal,
    "fixup": fixup,
    "rezero": he_normal,
    "shared": shared,
    "projection": projection,
}

# What the weights need, where they need it, and the trained factors of a branch at the start.
RESIDUAL = {"fixup": True, "rezero": True, "projection": True, "shared": False}
MULTIPLIERS = {"fixup": 1.0, "rezero": 0.0}


class Block(nnx.Module):
    """x -> conv(σ(norm(conv(x)))) times `multiplier`, if any, plus x, if `residual`."""

    def __init__(self, inner, outer, *, activation, norm, residual, multiplier, rngs):
        def conv(kernel):
            init = lambda *_: kernel
            return nnx.Conv(*kernel.shape[-2:], WINDOW, kernel_init=init, rngs=rngs)

        self.inner, self.outer = conv(inner), conv(outer)
        self.norm = NORMS[norm](inner.shape[-1])
        self.multiplier = None if multiplier is None else nnx.Param(jnp.asarray(multiplier))
        self.activation, self.residual = activation, residual

    def __call__(self, x):
        y = self.inner(x)
        if self.norm is not None:
            y = self.norm(y)
        y = self.outer(self.activation(y))
        if self.multiplier is not None:
            y = self.multiplier[...] * y
        return x + y if self.residual else y


class DeepCNN(nnx.Module):
    """A convolution of stride 2, `depth` blocks of two 3x3 convolutions, the mean over positions,
    and a linear head.

    Kernels: `stem/kernel` [3, 3, C, width]; `hidden/layers/inner/kernel` and
    `hidden/layers/outer/kernel` [depth, 3, 3, width, width] ("projection" has width // 2 channels
    between them); `head/kernel` [width, num_classes].

    Args:
        width: channels.
        depth: number of blocks.
        activation: one of `ACTIVATIONS`, between the convolutions; relu for "shared", "projection".
        norm: before it, one of `NORMS`.
        residual: whether a block adds to its input.
        weights: what blocks start from, one of `WEIGHTS`. "fixup", whose head starts at 0,
            "rezero", and "projection" are for residual blocks, "shared" is for others. In the last
            two, kernels are those of `orthojax.persistent` at the centre and zero around it.
        remat: what is computed again for gradients, which saves memory; as of `Stack`.

    Raises:
        ValueError: `weights` do not go with `residual`.
    """

    def __init__(
        self,
        image_shape,
        num_classes,
        *,
        width,
        depth,
        activation,
        norm,
        residual,
        weights,
        remat,
        rngs,
    ):
        if RESIDUAL.get(weights, residual) != residual:
            raise ValueError(f"`weights` {weights} need residual={not residual}, got {residual}.")
        options = {
            "activation": ACTIVATIONS[activation],
            "norm": norm,
            "residual": residual,
            "multiplier": MULTIPLIERS.get(weights),
        }
        self.stem = nnx.Conv(image_shape[-1], width, WINDOW, strides=2, rngs=rngs)
        self.hidden = Stack(
            lambda rngs, inner, outer: Block(inner, outer, rngs=rngs, **options),
            depth,
            *WEIGHTS[weights](rngs.params(), depth, width),
            rngs=rngs,
            remat=remat,
        )
        zeros = nnx.initializers.zeros
        head_init = zeros if weights == "fixup" else nnx.initializers.lecun_normal()
        self.head = nnx.Linear(width, num_classes, kernel_init=head_init, rngs=rngs)

    def __call__(self, images):
        return self.head(self.hidden(self.stem(images)).mean(axis=(1, 2)))
