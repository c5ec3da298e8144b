"""Recurrent networks on symbols and on the pixels of images, one after another."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from orthojax import recurrent
from orthojax.initializers import haar
from orthojax.nn.recurrent import OrthogonalCell, Recurrent, UnitaryCell

# What the kernels of the cells "orthogonal" and "unitary" start from; the others have their own.
STARTS = {
    "henaff": (recurrent.henaff(), recurrent.phases()),
    "cayley": (recurrent.cayley_start(), recurrent.phases(0.0, np.pi / 2)),
    "haar": (haar, recurrent.haar_unitary),
}


def _orthogonal(features, width, start, rngs):
    return Recurrent(OrthogonalCell(features, width, kernel_init=STARTS[start][0], rngs=rngs))


def _unitary(features, width, start, rngs):
    return Recurrent(UnitaryCell(features, width, kernel_init=STARTS[start][1], rngs=rngs))


def _lstm(features, width, start, rngs):
    del start

    def forget_nothing(key, shape, dtype=jnp.float32):  # Jozefowicz, Zaremba, Sutskever 2015
        del key
        gates = jnp.arange(shape[0]) // width  # in, forget, cell, out
        return jnp.where(gates == 1, 1, 0).astype(dtype)

    return nnx.RNN(nnx.OptimizedLSTMCell(features, width, bias_init=forget_nothing, rngs=rngs))


def _vanilla(features, width, start, rngs):
    del start
    return nnx.RNN(nnx.SimpleCell(features, width, rngs=rngs))


# {name: (features, width, start, rngs) -> module of [B, T, features] -> [B, T, m]}
CELLS = {"orthogonal": _orthogonal, "unitary": _unitary, "lstm": _lstm, "vanilla": _vanilla}


class _RNN(nnx.Module):
    """A recurrent layer `layer`, and `head` on its states [B, T, m]: m = width, of a unitary cell
    2 width."""

    def __init__(self, features, outputs, cell, width, start, rngs):
        self.layer = CELLS[cell](features, width, start, rngs)
        states = 2 * width if cell == "unitary" else width
        self.head = nnx.Linear(states, outputs, rngs=rngs)


class TokenRNN(_RNN):
    """Logits [B, T, vocabulary] after each of the symbols [B, T].

    Of the cells "orthogonal" and "unitary" an optimizer keeps `layer/cell/kernel` so, [n, n] or
    [n, 2n]. "vanilla" is tanh(x V + h W + b) without constraint, from an orthogonal W.
    """

    def __init__(self, vocabulary, *, cell, width, start, rngs):
        super().__init__(vocabulary, vocabulary, cell, width, start, rngs)
        self.vocabulary = vocabulary

    def __call__(self, symbols):
        return self.head(self.layer(jax.nn.one_hot(symbols, self.vocabulary)))


class PixelRNN(_RNN):
    """Logits [B, num_classes] after the last pixel of images [B, H, W, C], row by row.

    `pool` x `pool` pixels are averaged before; `permute` reads the pixels in a fixed random order.
    Parameters as of `TokenRNN`.
    """

    def __init__(self, image_shape, num_classes, *, cell, width, start, permute, pool, rngs):
        super().__init__(image_shape[-1], num_classes, cell, width, start, rngs)
        self.permute, self.pool = permute, pool

    def __call__(self, images):
        pooled = nnx.avg_pool(images, (self.pool, self.pool), strides=(self.pool, self.pool))
        pixels = pooled.reshape(images.shape[0], -1, images.shape[-1])
        if self.permute:
            pixels = pixels[:, np.random.default_rng(0).permutation(pixels.shape[1])]
        return self.head(self.layer(pixels)[:, -1])
