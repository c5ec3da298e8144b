"""Parameterization: a pair of pure functions between a matrix W and its free parameters."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from orthojax.decompositions import orthonormalize
from orthojax.linalg import at_least_float32


class Parameterization(NamedTuple):
    """Free parameters theta for matrices W, around constants base.

    All functions take and return arrays `(*batch, n, p)`, n >= p, of float32 or float64; `base` and
    `theta` are pytrees whose arrays lead with the same batch axes. `forward(*init(W)) == W` for
    every W in the image of `forward`; any other W is moved there. Two functions are enough to write
    one's own; the other fields only save time.

    Attributes:
      init: W -> (base, theta). Applied to the current W it changes the base.
      forward: (base, theta) -> W. `base` is held fixed, `theta` is trained. Differentiable.
      pull_back: (base, theta, W, dL/dW) -> dL/dtheta, where W = forward(base, theta) at hand makes
        it cheaper than the VJP of `forward`; None for the latter.
      is_retraction: base is W itself, theta = 0 stands for it, and the derivative of `forward(base,
        .)` at 0 is the identity on tangent vectors (Absil, Mahony, Sepulchre 2008, Optimization
        Algorithms on Matrix Manifolds, def. 4.1.1).
      is_projection: a retraction that depends on base + theta alone and is orthonormal for any
        sum: a base that rounding has moved off the manifold does no harm, and is left as it is.
      ignores_normal: a retraction that depends on the tangent part of theta alone, which need not
        be projected before.
      transport: (old base, new base, m, squared) -> m, for m shaped like theta that moves as
        dL/dtheta does when the base changes, or, if squared, as the square of its entries; None: m
        stays.
    """

    init: Callable[[jax.Array], tuple[chex.ArrayTree, chex.ArrayTree]]
    forward: Callable[[chex.ArrayTree, chex.ArrayTree], jax.Array]
    pull_back: (
        Callable[[chex.ArrayTree, chex.ArrayTree, jax.Array, jax.Array], chex.ArrayTree] | None
    ) = None
    is_retraction: bool = False
    is_projection: bool = False
    ignores_normal: bool = False
    transport: Callable[[chex.ArrayTree, chex.ArrayTree, jax.Array, bool], jax.Array] | None = None


def around_a_point(forward, pull_back=None, **properties) -> Parameterization:
    """A `Parameterization` by a retraction: base = W, or the nearest orthonormal matrix, and theta
    = 0."""

    def init(w):
        base = orthonormalize(at_least_float32(w))
        return base, jnp.zeros_like(base)

    return Parameterization(init, forward, pull_back, is_retraction=True, **properties)
