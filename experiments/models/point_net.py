"""Pairs of points -> numbers, by the same network on every pair: a small PointNet (Qi et al. 2017,
arXiv:1612.00593)."""

import jax.numpy as jnp
from flax import nnx


class PointNet(nnx.Module):
    """x, y [B, points, 3] -> [B, outputs]; the order of the pairs (x_i, y_i) does not matter.

    Layers of `widths` on each pair, the maximum of each feature over the pairs, and one hidden
    layer. `start` is the bias of the outputs at the start.
    """

    def __init__(self, outputs, *, widths, hidden, start, rngs):
        sizes = zip((6, *widths[:-1]), widths, strict=True)
        self.on_points = nnx.List([nnx.Linear(n, m, rngs=rngs) for n, m in sizes])
        self.on_features = nnx.Linear(widths[-1], hidden, rngs=rngs)
        bias = lambda key, shape, dtype, **_: jnp.asarray(start, dtype)
        self.head = nnx.Linear(hidden, outputs, bias_init=bias, rngs=rngs)

    def __call__(self, x, y):
        h = jnp.concatenate([x, y], axis=-1)
        for layer in self.on_points:
            h = nnx.relu(layer(h))
        return self.head(nnx.relu(self.on_features(jnp.max(h, axis=1))))
