"""Orthonormal factors of matrices: QR by Cholesky or LAPACK, and polar by products alone."""

import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from orthojax.inverses import cholesky_inverse, right_divide, triangular_inverse
from orthojax.linalg import (
    eye_like,
    frobenius,
    gram,
    largest,
    matmul,
    random_columns,
    skew,
    sym,
    times,
)


def _defect(k):
    return frobenius(k - eye_like(k))


def _cholesky_q(x):
    """X R^{-1} and R'R = X'X."""
    k = matmul(x.mT, x)
    return matmul(x, cholesky_inverse(k).mT), k


def qr_positive(
    x: jax.Array, method: Literal["householder", "cholesky"] = "householder"
) -> jax.Array:
    """Q of the thin decomposition X = Q R with diag(R) > 0, unique for `x` [..., n, p] of full
    rank.

    `method="cholesky"` is X R^{-1} for R'R = X'X, two products, and the same a second time where
    |X'X - I|_F >= 1/2 (CholeskyQR2, Yamamoto et al. 2015, ETNA 44:306): accurate while cond(X)^2 <
    1/eps, NaN beyond. The derivative needs R = Q'X only, no second factorization.
    """
    return _qr_positive(x, method)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _qr_positive(x, method):
    if method == "cholesky":
        q, k = _cholesky_q(x)
        is_far = ~(largest(_defect(k)) < 0.5)
        return jax.lax.cond(is_far, lambda q: _cholesky_q(q)[0], lambda q: q, q)
    q, r = jnp.linalg.qr(x)
    # Not `sign`, which is 0 at 0 and would erase a column.
    return (
        q * jnp.where(jnp.diagonal(r, axis1=-2, axis2=-1) < 0, -1, 1).astype(x.dtype)[..., None, :]
    )


@_qr_positive.defjvp
def _(method, primals, tangents):
    (x,), (dx,) = primals, tangents
    q = _qr_positive(x, method)
    dq = right_divide(dx, jnp.triu(matmul(q.mT, x)), triangular_inverse)
    inner = matmul(q.mT, dq)
    lower = jnp.tril(inner, -1)
    return q, dq + matmul(q, lower - lower.mT - inner)


def _minimax(low, high):
    """The odd quintic (a, b, c) that is nearest to 1 on [low, high], by Remez' exchange."""
    if high - low < 1e-6:
        return 1.875, -1.25, 0.375  # Newton-Schulz, cubic at 1.
    inner = np.linspace(low, high, 4)[1:3]
    for _ in range(100):
        x = np.array([low, *inner, high])
        a, b, c, _ = np.linalg.solve(np.stack([x, x**3, x**5, [1, -1, 1, -1]], 1), np.ones(4))
        root = np.sqrt(max(9 * b * b - 20 * a * c, 0))
        before, inner = inner, np.sqrt((-3 * b + np.array([-root, root])) / (10 * c))
        if np.abs(inner - before).max() < 1e-12:
            break
    return a, b, c


_SAFE = 1.01


@functools.lru_cache
def quintic_schedule(lower: float, steps: int) -> tuple[tuple[float, float, float], ...]:
    """Coefficients of quintic steps a X + b X(X'X) + c X(X'X)^2 that bring singular values from
    [lower, 1] to 1 as fast as any of their number do, each the best on what the one before leaves:
    Polar Express (Amsel, Persson, Musco, Gower 2025, arXiv:2505.16932).

    But for steps of X / 1.01 while singular values reach beyond 1.2: at the upper end a step has a
    slope of 13, and rounding would grow by it from step to step, out of the range that the steps
    are made for.
    """
    low, high, schedule = lower, 1.0, []
    for i in range(steps):
        a, b, c = _minimax(low, high)
        safe = _SAFE if i == 0 or high > 1.2 else 1.0
        a, b, c = a / safe, b / safe**3, c / safe**5
        schedule.append((a, b, c))
        p = lambda x, a=a, b=b, c=c: a * x + b * x**3 + c * x**5
        low, high = p(low), 2 - p(safe * low)
    return tuple(schedule)


_NEAR = 0.3  # |X'X - I| at which the cubic step converges quadratically.
_MAX_STEPS = 80  # At 1.875 a step, singular values of 1e-16 have long arrived.


def _approach(x):
    """Brings `x` of any scale to |X'X - I| < _NEAR by products alone."""
    entry = jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True)  # Squares of 1e30 overflow.
    x = x / jnp.where(entry > 0, entry, 1)
    k = gram(x, x)
    # At least the largest singular value, and at most p^(1/4) times it.
    scale = jnp.sqrt(frobenius(k))[..., None, None]
    scale = jnp.where(scale > 0, scale, 1)
    # A singular value of zero would stay there: a kernel of zeros, or of rank less than p, gets
    # some direction.
    noise = jax.random.normal(jax.random.key(0), x.shape[-2:], x.dtype) / x.shape[-2] ** 0.5
    x = x / scale + 8 * jnp.finfo(x.dtype).eps * noise[(None,) * (x.ndim - 2)]
    # The last one is repeated as long as needed.
    schedule = jnp.asarray((*quintic_schedule(1e-3, 6), (1.875, -1.25, 0.375)), x.dtype)

    def step(carry):
        count, x, k = carry
        a, b, c = schedule[jnp.minimum(count, len(schedule) - 1)]
        near = (_defect(k) < _NEAR)[..., None, None]
        x = jnp.where(near, x, times(x, a * eye_like(x) + b * k + c * matmul(k, k)))
        return count + 1, x, gram(x, x)

    def far(carry):
        count, _, k = carry
        return (count < _MAX_STEPS) & (largest(_defect(k)) >= _NEAR)

    count = jnp.zeros([], jnp.int32)
    _, x, k = jax.lax.while_loop(far, step, (count, x, gram(x, x)))
    return x, k


def newton_schulz(x: jax.Array) -> jax.Array:
    """X (3 I - X'X) / 2, which squares a small distance from the manifold: 2 products n p^2."""
    return times(x, 1.5 * eye_like(x) - gram(x, x) / 2)


def _probed_error(x):
    """Root mean square [] of |X'X v - v| / |v| for random v, largest of a batch."""
    v = random_columns(x, 4)
    return largest(frobenius(matmul(x.mT, matmul(x, v)) - v) / frobenius(v))


def orthonormalize(x: jax.Array, tolerance: float | None = None) -> jax.Array:
    """The orthonormal matrix nearest to `x` [..., n, p], U V' of its SVD U S V', by products alone.

    Matrices of which |X'X v - v| / |v|, in the root mean square of 4 random v, is below `tolerance`
    are returned as they are; None is rounding, (3 + sqrt(n) / 8) eps. Near the manifold (|X'X -
    I|_F < 0.3) Newton-Schulz, X (3 I - X'X) / 2, which squares the error: 2 products n p^2 for a
    matrix that has drifted. From farther away Polar Express steps before, at most 80. Where X has
    less than full rank the nearest matrix is not unique and one of them comes out. No derivative is
    meant to be taken: see `polar`.
    """
    if tolerance is None:
        # Of products with n terms, correctly rounded input gives about 1 + sqrt(n) / 8.
        tolerance = (3 + x.shape[-2] ** 0.5 / 8) * float(jnp.finfo(x.dtype).eps)
    return jax.lax.cond(_probed_error(x) < tolerance, lambda x: x, nearest_orthonormal, x)


def nearest_orthonormal(x: jax.Array) -> jax.Array:
    """`orthonormalize` without a look at whether `x` is so already."""
    eps = jnp.finfo(x.dtype).eps
    k = gram(x, x)
    is_far = ~(largest(_defect(k)) < _NEAR)
    x, k = jax.lax.cond(is_far, _approach, lambda x: (x, k), x)

    def step(carry):
        # The error after a step is 3/4 of its square: where that is below rounding, it is not
        # measured.
        x, _ = carry
        k = gram(x, x)
        return times(x, 1.5 * eye_like(x) - k / 2), largest(_defect(k)) ** 2 / x.shape[-1] ** 0.5

    x, error = times(x, 1.5 * eye_like(x) - k / 2), largest(_defect(k)) ** 2 / x.shape[-1] ** 0.5
    more = lambda x: jax.lax.while_loop(lambda c: c[1] > eps, step, (x, error))[0]
    return jax.lax.cond(error > eps, more, lambda x: x, x)


@jax.custom_jvp
def polar(x: jax.Array) -> jax.Array:
    """`orthonormalize` with its derivative, for `x` of full rank.

    With X = W P, P symmetric: dW = W Omega + (I - W W') dX P^{-1}, where Omega is the skew solution
    of P Omega + Omega P = W'dX - dX'W, found in the eigenvectors of P, i.e. divided by sigma_i +
    sigma_j. The derivative of an SVD divides by sigma_i - sigma_j instead and is NaN for every
    orthonormal X.
    """
    return nearest_orthonormal(x)


@polar.defjvp
def _(primals, tangents):
    (x,), (dx,) = primals, tangents
    w = nearest_orthonormal(x)
    s, v = jnp.linalg.eigh(sym(matmul(w.mT, x)))
    inner = matmul(w.mT, dx)
    omega = 2 * matmul(matmul(v.mT, skew(inner)), v) / (s[..., :, None] + s[..., None, :])
    dw = matmul(w, matmul(matmul(v, omega), v.mT))
    if x.shape[-2] == x.shape[-1]:
        return w, dw
    normal = dx - matmul(w, inner)
    return w, dw + matmul(matmul(normal, v) / s[..., None, :], v.mT)


def _segments(schedule):
    """Steps in a row that X'X may take without a look at X itself.

    Small eigenvalues, and by rounding some of them are negative, grow by a^2 a step: beyond some
    hundred they would be wrong, and where X lacks rank grow without bound.
    """
    segments, growth = [], math.inf
    for step in schedule:
        if growth > 500:
            segments.append([])
            growth = 1.0
        segments[-1].append(step)
        growth *= step[0] ** 2
    return segments


def polar_express(x: jax.Array, steps: int = 8, by_gram: bool | None = None) -> jax.Array:
    """Nearly the polar factor U V' of `x` [..., n, p] = U S V', in a fixed number of products: for
    updates, which need no exact one.

    Singular values from 10^(-steps/2) of the largest on come near 1 (within 5e-3 for 5 steps, 3e-5
    for 8); smaller ones grow by about 10^(steps/2). The best quintic steps for this range
    (`quintic_schedule`), after division by the Schatten norm of order 8, |(X'X)^2|_F^{1/4}, which
    the first step has at hand and which is nearer to the largest singular value than what is
    known before.

    Args:
      x: float32 or float64; of any scale, a matrix of zeros stays one.
      steps: of 2 products n p^2 and one p^3 each.
      by_gram: whether to step X'X, 4 products p^3 a step, and X once in two or three steps only;
        None: where n >= 2p.

    >>> import jax.numpy as jnp
    >>> polar_express(jnp.diag(jnp.array([1.0, -0.1]))).round(3)
    Array([[ 1.,  0.],
           [ 0., -1.]], dtype=float32)
    """
    n, p = x.shape[-2:]
    if steps < 1:
        raise ValueError(f"`steps` is their number, at least 1, got {steps}.")
    by_gram = n >= 2 * p if by_gram is None else by_gram
    schedule = quintic_schedule(10 ** (-steps / 2), steps)
    entry = jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True)  # Squares of 1e30 overflow.
    x = x / jnp.where(entry > 0, entry, 1)
    eye = eye_like(x)

    def polynomial(coefficients, k, k2):
        a, b, c = coefficients
        return a * eye + b * k + c * k2

    scale = None
    for segment in _segments(schedule) if by_gram else [(step,) for step in schedule]:
        k, factor = gram(x, x), None
        for i, (a, b, c) in enumerate(segment):
            k2 = matmul(k, k)
            if scale is None:
                scale = frobenius(k2)[..., None, None] ** 0.25
                scale = jnp.where(scale > 0, scale, 1)
                a, b, c = a / scale, b / scale**3, c / scale**5
            step = polynomial((a, b, c), k, k2)
            factor = step if factor is None else matmul(factor, step)
            if i + 1 < len(segment):
                k = matmul(matmul(k, step), step)
        x = times(x, factor)
    return x
