"""Singular values of `x` [..., n, p], n >= p, float32 or float64, changed or looked at by products
alone."""

import jax
import jax.numpy as jnp

from orthojax.decompositions import polar_express
from orthojax.linalg import eye_like, frobenius, largest, matmul, sym

_MOST_STEPS = 40  # At 1.5 a step, an inverse root of a condition of 1e12 has long arrived.


def power_step(apply, v: jax.Array, steps: int) -> jax.Array:
    """The unit vectors `v` [..., p, 1] after `steps` applications of a symmetric matrix, `apply`,
    each normalized; where one of them is 0, `v` as it was."""

    def step(_, v):
        y = apply(v)
        norm = frobenius(y)[..., None, None]
        return jnp.where(norm > 0, y / jnp.where(norm > 0, norm, 1), v)

    return jax.lax.fori_loop(0, steps, step, v)


def _inverse_root(a):
    """A^{-1/2} for symmetric `a` [..., p, p] of eigenvalues >= 1, by the coupled Newton-Schulz
    iteration (Higham 2008, Functions of Matrices, eq. 6.35)."""
    eye = jnp.broadcast_to(eye_like(a), a.shape)
    rows = jnp.max(jnp.sum(jnp.abs(a - eye), -1), -1)
    bound = 1 + jnp.minimum(frobenius(a - eye), rows)[..., None, None]
    eps = jnp.finfo(a.dtype).eps

    def step(carry):
        count, y, z, _ = carry
        factor = 1.5 * eye - matmul(z, y) / 2
        # The error after a step is 3/4 of its square: where that is below rounding, it is not
        # measured.
        error = largest(frobenius(factor - eye))
        return count + 1, matmul(y, factor), matmul(factor, z), error

    def far(carry):
        count, _, _, error = carry
        return (count < _MOST_STEPS) & (3 * error**2 > eps * a.shape[-1] ** 0.5)

    start = jnp.zeros([], jnp.int32), a / bound, eye, largest(bound)
    return jax.lax.while_loop(far, step, start)[2] / jnp.sqrt(bound)


def clip_singular_values(x: jax.Array, most: float | jax.Array, steps: int = 8) -> jax.Array:
    """The nearest matrix of spectral norm at most c = `most`: U min(S, c) V' of the SVD
    X = U S V', by products alone.

    With Y = X'X / c^2 - I and its positive part Y+ = (Y + Y sign(Y)) / 2, it is X (I + Y+)^{-1/2}:
    what is below c is multiplied by 1. The sign of a symmetric matrix is its polar factor, by
    `polar_express`, whose error where eigenvalues of Y are near 0 is multiplied by these: within
    2e-5 c for 8 steps, 1e-3 c for 5. Newhouse et al. 2025 (arXiv:2507.13338) fit polynomials to
    min(S, c) instead, which hold up to a norm known before.

    Args:
      x: [..., n, p]. `most`: above 0. `steps`: of `polar_express`.

    Cost: 2 products n p^2 and, where no singular value is far above c, 3 `steps` + 13 or so of p^3.
    No derivative is meant to be taken.

    >>> import jax.numpy as jnp
    >>> clip_singular_values(jnp.diag(jnp.array([3.0, 0.5])), 1.0).round(4)
    Array([[1. , 0. ],
           [0. , 0.5]], dtype=float32)
    """
    y = sym(matmul(x.mT, x) / most**2) - eye_like(x)
    positive = sym(y + matmul(y, polar_express(y, steps, by_gram=False))) / 2
    return matmul(x, _inverse_root(positive + eye_like(x)))
