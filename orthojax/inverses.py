"""Inverses made of products, of the matrices that need no pivoting; and division by them."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from orthojax.linalg import eye_like, frobenius, largest, matmul, random_columns

# LAPACK inverts blocks of an eighth, whose share of the time is small. Below 16 its calls are
# cheaper than products of small blocks.
_LEVELS, _LEAST = 3, 16


def _leaf(n):
    return max(_LEAST, -(-n // 2**_LEVELS))


def _blocks(a):
    h = a.shape[-1] // 2
    return a[..., :h, :h], a[..., :h, h:], a[..., h:, :h], a[..., h:, h:]


def _joined(a, b, c, d):
    top = jnp.concatenate([a, b], axis=-1)
    return jnp.concatenate([top, jnp.concatenate([c, d], axis=-1)], axis=-2)


def _by_blocks(a, leaf):
    if a.shape[-1] <= leaf:
        return jnp.linalg.inv(a)
    p, q, r, s = _blocks(a)
    p = _by_blocks(p, leaf)
    pq, rp = matmul(p, q), matmul(r, p)
    s = _by_blocks(s - matmul(r, pq), leaf)  # The Schur complement.
    b = -matmul(pq, s)
    return _joined(p - matmul(b, rp), b, -matmul(s, rp), s)


def _accurate(a, inverse):
    """Whether A^{-1} A = I, by its product with a random vector: whatever A is."""
    v = random_columns(a, 1)
    error = frobenius(matmul(inverse, matmul(a, v)) - v) / frobenius(v)
    return ~(largest(error) >= 128 * jnp.finfo(a.dtype).eps)


@jax.custom_jvp
def inverse(a: jax.Array) -> jax.Array:
    """A^{-1} of `a` [..., n, n] with A + A' positive definite, as I - K for skew-symmetric K.

    By blocks: all leading blocks and their Schur complements are such matrices too, so no pivoting
    is needed (Golub, Van Loan 2013, Matrix Computations, section 4.3) and all but the inverses of
    blocks of n/8 is products, 1 mm of them, where LU and the solves are as slow as 3 to 7. Where
    the skew part is so much larger (a hundred times) than the symmetric one that accuracy
    suffers, LAPACK's with pivoting instead. Derivative by two products.
    """
    leaf = _leaf(a.shape[-1])
    if a.shape[-1] <= leaf:
        return jnp.linalg.inv(a)
    x = _by_blocks(a, leaf)
    # LAPACK stores by columns, and XLA would have all results of the branches so, and copy them:
    # a product stores by rows.
    pivoted = lambda a, x: matmul(jnp.linalg.inv(a), jnp.broadcast_to(eye_like(a), a.shape))
    return jax.lax.cond(_accurate(a, x), lambda a, x: x, pivoted, a, x)


@inverse.defjvp
def _(primals, tangents):
    x = inverse(*primals)
    return x, -matmul(matmul(x, *tangents), x)


def triangular_inverse(r: jax.Array) -> jax.Array:
    """R^{-1} of upper triangular `r` [..., n, n]: 1/3 mm in products of blocks."""

    def invert(r, leaf):
        if r.shape[-1] <= leaf:
            return solve_triangular(r, jnp.broadcast_to(eye_like(r), r.shape))
        p, q, zeros, s = _blocks(r)
        p, s = invert(p, leaf), invert(s, leaf)
        return _joined(p, -matmul(matmul(p, q), s), jnp.zeros_like(zeros), s)

    return invert(r, _leaf(r.shape[-1]))


def cholesky_inverse(a: jax.Array) -> jax.Array:
    """L^{-1} of symmetric positive definite A = L L', `a` [..., n, n], L lower triangular with a
    positive diagonal: 2/3 mm in products of blocks; NaN where A is not positive definite."""

    def invert(a, leaf):
        if a.shape[-1] <= leaf:
            low = jnp.linalg.cholesky(a, symmetrize_input=False)
            return solve_triangular(low, jnp.broadcast_to(eye_like(a), a.shape), lower=True)
        p, q, r, s = _blocks(a)
        p = invert(p, leaf)
        low = matmul(r, p.mT)
        s = invert(s - matmul(low, low.mT), leaf)
        return _joined(p, jnp.zeros_like(q), -matmul(matmul(s, low), p), s)

    return invert(a, _leaf(a.shape[-1]))


def _lower_inverse(r):
    return triangular_inverse(r.mT).mT


def right_divide(
    x: jax.Array, a: jax.Array, invert: Callable[[jax.Array], jax.Array] = inverse
) -> jax.Array:
    """X A^{-1} for `x` [..., n, p] and `a` [..., p, p].

    The derivative, (dX - Y dA) A^{-1}, and its transpose are products: A is inverted once, by
    `inverse` or `triangular_inverse`.
    """
    return _right_divide(x, a, invert)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _right_divide(x, a, invert):
    return matmul(x, invert(a))


@_right_divide.defjvp
def _(invert, primals, tangents):
    (x, a), (dx, da) = primals, tangents
    inverted = invert(a)
    y = matmul(x, inverted)
    return y, matmul(dx - matmul(y, da), inverted)


def solve_upper(r: jax.Array, x: jax.Array) -> jax.Array:
    """R^{-1} X for upper triangular `r` [..., p, p] and `x` [..., p, m]: `right_divide` of the
    transposes."""
    return right_divide(x.mT, r.mT, _lower_inverse).mT
