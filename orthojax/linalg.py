"""Primitives shared by all maps, on real matrices `(*batch, n, p)`, n >= p, float32 or float64.

Products run at `Precision.HIGHEST`: orthogonality is lost at the precision of the products, and a
TPU multiplies in bfloat16 unless told otherwise.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.scipy.linalg import solve_triangular

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


def tangent(base: jax.Array, x: jax.Array) -> jax.Array:
    """X - B sym(B'X): the projection of `x` on the tangent space of the Stiefel manifold at `base`,
    both [..., n, p].

    Self-adjoint, and the Riemannian gradient in the Euclidean metric (Edelman, Arias, Smith 1998,
    arXiv:physics/9806030). Cost: 2 products n p^2.
    """
    return x - matmul(base, sym(matmul(base.mT, x)))


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


@jax.custom_jvp
def right_divide(x: jax.Array, a: jax.Array) -> jax.Array:
    """X A^{-1} for `x` [..., n, p] and `a` [..., p, p].

    The derivative, (dX - Y dA) A^{-1}, and its transpose are products: A is factorized once.
    """
    # A triangular solve with many right-hand sides is slower than a product.
    if x.shape[-2] > a.shape[-1]:
        return matmul(x, jnp.linalg.inv(a))
    return jnp.linalg.solve(a.mT, x.mT).mT


@right_divide.defjvp
def _(primals, tangents):
    (x, a), (dx, da) = primals, tangents
    inverse = jnp.linalg.inv(a)
    y = matmul(x, inverse)
    return y, matmul(dx - matmul(y, da), inverse)


def _cholesky_r(x):
    """Upper triangular R with R'R = X'X."""
    return jnp.linalg.cholesky(matmul(x.mT, x)).mT


def qr_positive(
    x: jax.Array, method: Literal["householder", "cholesky"] = "householder"
) -> jax.Array:
    """Q of the thin decomposition X = Q R with diag(R) > 0, unique for `x` [..., n, p] of full
    rank.

    `method="cholesky"` is CholeskyQR2 (Yamamoto et al. 2015, ETNA 44:306): two
    products and two triangular solves, accurate while cond(X)^2 < 1/eps, NaN beyond. The derivative
    needs R = Q'X only, no second factorization.
    """
    return _qr_positive(x, method)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _qr_positive(x, method):
    if method == "cholesky":
        for _ in range(2):
            x = _solve_right_triangular(x, _cholesky_r(x))
        return x
    q, r = jnp.linalg.qr(x)
    # Not `sign`, which is 0 at 0 and would erase a column.
    return (
        q * jnp.where(jnp.diagonal(r, axis1=-2, axis2=-1) < 0, -1, 1).astype(x.dtype)[..., None, :]
    )


@_qr_positive.defjvp
def _(method, primals, tangents):
    (x,), (dx,) = primals, tangents
    q = _qr_positive(x, method)
    dq = _solve_right_triangular(dx, jnp.triu(matmul(q.mT, x)))
    inner = matmul(q.mT, dq)
    lower = jnp.tril(inner, -1)
    return q, dq + matmul(q, lower - lower.mT - inner)


def _solve_right_triangular(x, r):
    """X R^{-1} for an upper triangular `r`."""
    return solve_triangular(r, x.mT, trans=1).mT


# Quintic steps a X + b X(X'X) + c X(X'X)^2 that bring singular values from [1e-3, 1] to 1 as fast
# as any of their length do: Amsel, Persson, Musco, Gower 2025, arXiv:2505.16932 (Polar Express).
# The last one is Newton-Schulz, cubic at 1, and repeated as long as needed.
_POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.875, -1.25, 0.375),
)
_NEAR = 0.3  # |X'X - I| at which the cubic step converges quadratically.
_MAX_STEPS = 80  # At 1.875 a step, singular values of 1e-16 have long arrived.


def _defect(gram):
    return frobenius(gram - eye_like(gram))


def _approach(x):
    """Brings `x` of any scale to |X'X - I| < _NEAR by products alone."""
    entry = jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True)  # Squares of 1e30 overflow.
    x = x / jnp.where(entry > 0, entry, 1)
    gram = matmul(x.mT, x)
    scale = jnp.sqrt(
        frobenius(gram)
    )  # At least the largest singular value, and at most p^(1/4) times it.
    scale = jnp.where(scale > 0, scale, 1)[..., None, None]
    # A singular value of zero would stay there: a kernel of zeros, or of rank less than p, gets
    # some direction.
    noise = jax.random.normal(jax.random.key(0), x.shape[-2:], x.dtype) / x.shape[-2] ** 0.5
    x = x / scale + 8 * jnp.finfo(x.dtype).eps * noise[(None,) * (x.ndim - 2)]
    schedule = jnp.asarray(_POLAR_EXPRESS, x.dtype)

    def step(carry):
        count, x, gram = carry
        a, b, c = schedule[jnp.minimum(count, len(_POLAR_EXPRESS) - 1)]
        near = (_defect(gram) < _NEAR)[..., None, None]
        x = jnp.where(near, x, matmul(x, a * eye_like(x) + b * gram + c * matmul(gram, gram)))
        return count + 1, x, matmul(x.mT, x)

    def far(carry):
        count, _, gram = carry
        return (count < _MAX_STEPS) & (largest(_defect(gram)) >= _NEAR)

    count = jnp.zeros([], jnp.int32)
    _, x, gram = jax.lax.while_loop(far, step, (count, x, matmul(x.mT, x)))
    return x, gram


def newton_schulz(x: jax.Array) -> jax.Array:
    """X (3 I - X'X) / 2, which squares a small distance from the manifold: 2 products n p^2."""
    return matmul(x, 1.5 * eye_like(x) - matmul(x.mT, x) / 2)


def orthonormalize(x: jax.Array) -> jax.Array:
    """The orthonormal matrix nearest to `x` [..., n, p], U V' of its SVD U S V', by products alone.

    Near the manifold (|X'X - I|_F < 0.3) Newton-Schulz, X (3 I - X'X) / 2, which squares the error:
    2 products n p^2 for a matrix that has drifted by rounding. From farther away Polar Express
    steps before, at most 80. Where X has less than full rank the nearest matrix is not unique and
    one of them comes out. No derivative is meant to be taken: see `polar`.
    """
    eps = jnp.finfo(x.dtype).eps
    gram = matmul(x.mT, x)
    is_far = ~(largest(_defect(gram)) < _NEAR)
    x, gram = jax.lax.cond(is_far, _approach, lambda x: (x, gram), x)

    def step(carry):
        x, gram, _ = carry
        x = matmul(x, 1.5 * eye_like(x) - gram / 2)
        # The error after a step is 3/4 of its square: where that is below rounding, it is not
        # measured.
        error = largest(_defect(gram)) ** 2
        gram = jax.lax.cond(error > eps, lambda x: matmul(x.mT, x), lambda _: gram, x)
        return x, gram, error

    return jax.lax.while_loop(lambda c: c[2] > eps, step, (x, gram, largest(_defect(gram))))[0]


@jax.custom_jvp
def polar(x: jax.Array) -> jax.Array:
    """`orthonormalize` with its derivative, for `x` of full rank.

    With X = W P, P symmetric: dW = W Omega + (I - W W') dX P^{-1}, where Omega is the skew solution
    of P Omega + Omega P = W'dX - dX'W, found in the eigenvectors of P, i.e. divided by sigma_i +
    sigma_j. The derivative of an SVD divides by sigma_i - sigma_j instead and is NaN for every
    orthonormal X.
    """
    return orthonormalize(x)


@polar.defjvp
def _(primals, tangents):
    (x,), (dx,) = primals, tangents
    w = orthonormalize(x)
    s, v = jnp.linalg.eigh(sym(matmul(w.mT, x)))
    inner = matmul(w.mT, dx)
    omega = 2 * matmul(matmul(v.mT, skew(inner)), v) / (s[..., :, None] + s[..., None, :])
    dw = matmul(w, matmul(matmul(v, omega), v.mT))
    if x.shape[-2] == x.shape[-1]:
        return w, dw
    normal = dx - matmul(w, inner)
    return w, dw + matmul(matmul(normal, v) / s[..., None, :], v.mT)
