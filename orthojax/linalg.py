"""Primitives shared by all maps, on real matrices `(*batch, n, p)`, n >= p, float32 or float64.

Products run at `Precision.HIGHEST`: orthogonality is lost at the precision of the products, and a
TPU multiplies in bfloat16 unless told otherwise.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap

matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def wide_dtype(dtype):
    """`dtype`, or float32 if that is wider."""
    return jnp.float32 if jnp.dtype(dtype).itemsize < 4 else dtype


def at_least_float32(x: jax.Array) -> jax.Array:
    """`x` in its own precision, or in float32 if that is lower: bfloat16 has no solve, QR, SVD or
    Cholesky."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            "Orthogonal maps are real: they need a floating-point kernel, "
            f"got {x.dtype} of shape {x.shape}."
        )
    return x.astype(wide_dtype(x.dtype))


def eye_like(x: jax.Array) -> jax.Array:
    """The identity with as many columns as `x` [..., n, p]: [1, ..., 1, p, p], ranked as `x`."""
    return jnp.eye(x.shape[-1], dtype=x.dtype).reshape(*[1] * (x.ndim - 2), *[x.shape[-1]] * 2)


def frobenius(x: jax.Array) -> jax.Array:
    """Frobenius norms [...] of `x` [..., n, p]."""
    return jnp.sqrt(jnp.sum(x * x, axis=(-2, -1)))


def sym(x: jax.Array) -> jax.Array:
    """(X + X') / 2."""
    return (x + x.mT) / 2


def skew(x: jax.Array) -> jax.Array:
    """(X - X') / 2."""
    return (x - x.mT) / 2


def random_columns(x: jax.Array, k: int) -> jax.Array:
    """Gaussian columns [1, ..., 1, p, k] that `x` [..., n, p] can be multiplied with, always the
    same: a constant, since to draw them at each step takes longer than to use them."""
    v = np.random.default_rng(0).standard_normal((x.shape[-1], k))
    return jnp.asarray(v, x.dtype).reshape(*[1] * (x.ndim - 2), *v.shape)


# X'Y reads both matrices by columns, which CPUs do a quarter slower than rows. Near the manifold
# square matrices need not: with W in one of the places, K = X'Y and Y X' = W K W' say the same, one
# in coordinates right of W, the other left of it.


def gram(x: jax.Array, y: jax.Array) -> jax.Array:
    """X'Y [..., p, p] of tall, Y X' of square `x` and `y` [..., n, p]: 1 u."""
    return matmul(y, x.mT) if x.shape[-2] == x.shape[-1] else matmul(x.mT, y)


def times(x: jax.Array, k: jax.Array) -> jax.Array:
    """X K of tall `x` [..., n, p], K X of square ones, for K made of `gram`: 1 u."""
    return matmul(k, x) if x.shape[-2] == x.shape[-1] else matmul(x, k)


def tangent(base: jax.Array, x: jax.Array) -> jax.Array:
    """X - B sym(B'X): the projection of `x` on the tangent space of the Stiefel manifold at `base`,
    both [..., n, p].

    Self-adjoint, and the Riemannian gradient in the Euclidean metric (Edelman, Arias, Smith 1998,
    arXiv:physics/9806030). Cost: 2 products n p^2.
    """
    return x - times(base, sym(gram(base, x)))


@custom_vmap
def _largest_of_batch(x: jax.Array) -> jax.Array:
    """The identity; under `vmap` the maximum over the mapped axis, the same for all and so not
    batched.

    A `lax.cond` or `while_loop` on it stays one branch under `vmap`, where a batched predicate
    would run both.
    """
    return x


@_largest_of_batch.def_vmap
def _(axis_size, in_batched, x):
    del axis_size
    return _largest_of_batch(jnp.max(x, axis=0) if in_batched[0] else x), False


def largest(x: jax.Array) -> jax.Array:
    """The maximum [] of `x`, over its axes and those that `vmap` hides."""
    return _largest_of_batch(jnp.max(jax.lax.stop_gradient(x)))
