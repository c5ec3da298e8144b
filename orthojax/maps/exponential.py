"""Matrix exponential: W = exp(A) B, A skew-symmetric."""

import math

import jax
import jax.numpy as jnp

from orthojax.linalg import eye_like, frobenius, largest, matmul, newton_schulz, skew
from orthojax.parameterization import Parameterization, around_a_point

# exp to degree 18 by 5 products, with coefficients of (I, A, A^2, A^3, A^6): Bader, Blanes, Casas
# 2019, doi:10.3390/math7121174. A test expands them to 1/k!.
_T18 = (
    (0, -1.00365581030144618291e-01, -8.02924648241156932449e-03, -8.92138498045729985177e-04, 0),
    (
        0,
        3.97849749499645077844e-01,
        1.36783778460411720168e00,
        4.98289622525382669416e-01,
        -6.37898194594723280150e-04,
    ),
    (
        -1.09676396052962061844e01,
        1.68015813878906206114e00,
        5.71779846478865511061e-02,
        -6.98210122488052056106e-03,
        3.34975017086070470649e-05,
    ),
    (
        -9.04316832390810593223e-02,
        -6.76404519071381882256e-02,
        6.75961301770459654925e-02,
        2.95552570429315521194e-02,
        -1.39180257516060693404e-05,
    ),
    (0, 0, -9.23364619367118555360e-02, -1.69364939002081722752e-02, -1.40086798182036094347e-05),
)
_MAX_SQUARINGS = 12


def _log2_norm(a):
    """log2 of the Frobenius norms [..., 1, 1] of `a`, of the smallest positive number for zeros."""
    norm = jax.lax.stop_gradient(frobenius(a))[..., None, None]
    return jnp.log2(jnp.maximum(norm, jnp.finfo(a.dtype).tiny))


def _times_power_of_two(x, k):
    """2^k X, exact."""
    return x * jnp.ldexp(jnp.ones(k.shape, x.dtype), k)


def expm(a: jax.Array) -> jax.Array:
    """exp(A) of `a` [..., n, n] that is skew-symmetric, or similar to a skew-symmetric matrix.

    Scaling and squaring of the Taylor polynomial of degree 18: 5 products, and one more for each
    doubling of the norm beyond about 2.9 (float32, Gaussian A; 2.2 where all angles are equal) or
    1.2 (float64). The norm is bounded by |A^6|_F^{1/6}, which costs no further product and is at
    most n^{1/12} times too large where the 1-norm is sqrt(n) times. Any number of matrices is one
    batch, also under `vmap`: it squares as often as its largest norm asks, and leaves the others
    as they are. Norms above 4000 give NaN rather than a wrong rotation. Both derivative modes, of
    any order; value and gradient together cost three times the value. Error in float32 about
    1e-6 (1 + |A|_2 / 4).

    `jax.scipy.linalg.expm` takes too few squarings for norms in (3.93, 7.85) * 2^k and is wrong
    there by up to 4e-3, with a result that still looks orthogonal.

    >>> import jax.numpy as jnp
    >>> half_turn = expm(jnp.array([[0., -jnp.pi], [jnp.pi, 0.]]))
    >>> bool(jnp.allclose(half_turn, -jnp.eye(2), atol=1e-6))
    True
    """
    # The largest norms without and after scaling. In float32 rounding decides, which the mean of
    # the angles sets; in float64 the truncated term of the largest angle.
    if a.dtype == jnp.float32:
        unscaled, scaled, mean = 2.2, 1.4, math.log2(a.shape[-1]) / 12
    else:
        unscaled, scaled, mean = 1.2, 1.1, 0.0
    # The powers of a matrix of norm at most 1 do not overflow.
    prescale = jnp.maximum(jnp.ceil(_log2_norm(a)), 0).astype(jnp.int32)
    a = _times_power_of_two(a, -prescale)
    a2 = matmul(a, a)
    a3 = matmul(a, a2)
    a6 = matmul(a3, a3)
    log2_norm = prescale.astype(a.dtype) + _log2_norm(a6) / 6 - mean
    needed = jnp.ceil(log2_norm - math.log2(scaled)).astype(jnp.int32)
    needed = jnp.where(log2_norm <= math.log2(unscaled), 0, needed)
    shift = prescale - jnp.minimum(needed, _MAX_SQUARINGS)
    powers = [_times_power_of_two(x, k * shift) for k, x in ((1, a), (2, a2), (3, a3), (6, a6))]
    eye = eye_like(a)
    b = [row[0] * eye + sum(c * x for c, x in zip(row[1:], powers, strict=True)) for row in _T18]
    a9 = matmul(b[0], b[4]) + b[3]
    x = b[1] + matmul(b[2] + a9, a9)

    most = largest(needed)

    def square(x, k):
        return jax.lax.cond(
            k < most, lambda x: jnp.where(k < needed, matmul(x, x), x), lambda x: x, x
        ), None

    # Small norms square nothing, and then keep no intermediate results for the derivative either.
    steps = jnp.arange(_MAX_SQUARINGS, dtype=jnp.int32)
    x = jax.lax.cond(most > 0, lambda x: jax.lax.scan(square, x, steps)[0], lambda x: x, x)
    return jnp.where(needed > _MAX_SQUARINGS, jnp.nan, x)


def _geodesic(base, theta):
    n, p = base.shape[-2:]
    inner = matmul(base.mT, theta)
    if n == p:
        return matmul(base, expm(skew(inner)))
    if n < 2 * p:
        t = theta - matmul(base, inner) / 2
        return matmul(expm(2 * skew(matmul(t, base.mT))), base)
    # A maps B X + E Y to B (K X - E'E Y) + E X: on the coefficients (X, Y) it is a 2p x 2p matrix,
    # similar to a skew-symmetric one, without the QR decomposition of E. Scaling E balances its
    # blocks and changes nothing else.
    normal = theta - matmul(base, inner)
    gram = matmul(normal.mT, normal)
    scale = jax.lax.stop_gradient(jnp.sqrt(frobenius(gram)))[..., None, None]
    scale = jnp.where(scale > 0, scale, 1)
    k, eye = skew(inner), jnp.broadcast_to(eye_like(gram), gram.shape)
    a = jnp.concatenate(
        [
            jnp.concatenate([k, -gram / scale], axis=-1),
            jnp.concatenate([scale * eye, jnp.zeros_like(gram)], axis=-1),
        ],
        axis=-2,
    )
    x = expm(a)[..., :p]
    return matmul(base, x[..., :p, :]) + matmul(normal, x[..., p:, :] / scale)


def _forward(base, theta):
    w = _geodesic(base, theta)
    # Squarings double the rounding: far from the base, at angles of more than 4 on average, one
    # Newton-Schulz step removes it again. The derivative is that of the geodesic.
    p = base.shape[-1]
    is_far = largest(frobenius(theta)) > 4 * p**0.5
    polished = jax.lax.cond(is_far, newton_schulz, lambda w: w, jax.lax.stop_gradient(w))
    return w + (polished - jax.lax.stop_gradient(w))


def exponential() -> Parameterization:
    """Matrix exponential around a base point B = W: theta [n, p] is a tangent vector in the
    coordinates of W.

        W = exp(A) B,    A = T B' - B T',  T = theta - B B'theta / 2,

    for square B the same as B exp(skew(B'theta)): the geodesics of the orthogonal group, and for
    tall B those of the canonical metric (Edelman, Arias, Smith 1998, arXiv:physics/9806030).
    For n >= 2p through the exponential of a 2p x 2p matrix, never of n x n.

    Range: the whole component of B, in square shape all rotations relative to B; every rotation by
    angles below pi once. Far out (an angle difference of 2 pi) the derivative is singular: rebase
    (Lezcano-Casado 2019, arXiv:1909.09501). Only the tangent part of theta matters: after a change
    of base, moments of the inner optimizer are transported by projection.

    Cost of `forward`: square, 2 products and those of `expm` (5 or more); tall, 5 products n p^2
    and `expm` of 2p x 2p. With `rebase_every=1` no derivative of `expm` is taken. Holds two copies
    of W (base, theta).

    >>> import jax.numpy as jnp, orthojax
    >>> p = orthojax.exponential()
    >>> base, theta = p.init(jnp.eye(2))
    >>> quarter_turn = p.forward(base, jnp.pi / 2 * jnp.array([[0., -1.], [1., 0.]]))
    >>> bool(jnp.allclose(quarter_turn, jnp.array([[0., -1.], [1., 0.]]), atol=1e-6))
    True
    """

    return around_a_point(_forward)
