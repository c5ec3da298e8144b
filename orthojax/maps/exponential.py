"""Matrix exponential: W = exp(A) B, A skew-symmetric."""

import math

import jax
import jax.numpy as jnp

from orthojax.decompositions import newton_schulz
from orthojax.linalg import eye_like, frobenius, gram, largest, matmul, random_columns, skew, times
from orthojax.parameterization import Parameterization, around_a_point

# The Taylor polynomial of degree 8 by 3 products: Bader, Blanes, Casas 2019,
# doi:10.3390/math7121174, eq. 13. A test expands it to 1/k!.
_ROOT = math.sqrt(177)
_X3 = 2 / 3
_X1, _X2 = _X3 * (1 + _ROOT) / 88, _X3 * (1 + _ROOT) / 352
_X4, _X5 = (-271 + 29 * _ROOT) / (315 * _X3), 11 * (-1 + _ROOT) / (1260 * _X3)
_X6, _X7 = 11 * (-9 + _ROOT) / (5040 * _X3), (89 - _ROOT) / (5040 * _X3**2)
_Y2 = (857 - 58 * _ROOT) / 630
# {precision: (largest norm of what the polynomial gets, the same where `_FEW` squarings or less
# are enough, most squarings)}. The truncated term is norm^9 / 9!, and doubled at each squaring.
_LIMITS = {"float32": (0.6, 0.75, 12), "float64": (0.05, 0.05, 17)}
_FEW = 2
_UNROLLED = 3  # Squarings whose derivative keeps its intermediate results.


def _log2_angle(a2):
    """log2 of the largest angles [...] of A, of which `a2` [..., n, n] is the square.

    Angles come in pairs: the largest is at most sqrt(|A^2|_F) / 2^(1/4), within 1.4 of that where n
    <= 32. For larger n it is estimated from |(A^2)^k V|_F, V of 8 random columns: too large by at
    most (n/2)^(1/(4k)), 1.2 for n = 1024, and too small by 0.8 with probability 1e-6.
    """
    n, norm = a2.shape[-1], frobenius(a2)
    tiny = jnp.finfo(a2.dtype).tiny
    norm = jnp.maximum(norm, tiny)
    bound = (jnp.log2(norm) - 0.5) / 2
    if n <= 32:
        return bound
    a2 = a2 / norm[..., None, None]
    x = random_columns(a2, 8)
    powers = n.bit_length() - 3
    for _ in range(powers):
        x = matmul(a2, x)
    estimate = (jnp.log2(jnp.maximum(frobenius(x), tiny)) - 2) / (2 * powers) + jnp.log2(norm) / 2
    return jnp.minimum(bound, estimate)


def _taylor(a, a2, scale):
    """The polynomial of scale A, with its square of A at hand."""
    eye, a, a2 = eye_like(a), scale * a, scale**2 * a2
    a4 = matmul(a2, _X1 * a + _X2 * a2)
    a8 = matmul(_X3 * a2 + a4, _X4 * eye + _X5 * a + _X6 * a2 + _X7 * a4)
    return eye + a + _Y2 * a2 + a8


def _square_each(x, needed, most):
    """X^(2^needed) of each matrix; the derivative computes the squares again."""

    def square(x, k):
        squared = lambda x: jnp.where(k < needed[..., None, None], matmul(x, x), x)
        return jax.lax.cond(k < largest(needed), squared, lambda x: x, x), None

    return jax.lax.scan(square, x, jnp.arange(most, dtype=jnp.int32))[0]


def expm(a: jax.Array) -> jax.Array:
    """exp(A) of `a` [..., n, n] that is skew-symmetric, or similar to a skew-symmetric matrix.

    Scaling and squaring of the Taylor polynomial of degree 8: 3 products for norms |A|_2 up to
    0.75, and one more for each doubling (float32; float64 squares 4 times more). How often, 8
    vectors times the square of A say. Any number of matrices is one batch, also under `vmap`: all
    are squared alike up to 3 times, beyond that each as often as its norm asks. Norms above 2400
    give NaN rather than a wrong rotation. Both derivative modes, of any order; value and gradient
    together cost three times the value. Error in float32 below 1e-6 (1 + |A|_2 / 4).

    `jax.scipy.linalg.expm` takes too few squarings for norms in (3.93, 7.85) * 2^k and is wrong
    there by up to 4e-3, with a result that still looks orthogonal.

    >>> import jax.numpy as jnp
    >>> half_turn = expm(jnp.array([[0., -jnp.pi], [jnp.pi, 0.]]))
    >>> bool(jnp.allclose(half_turn, -jnp.eye(2), atol=1e-6))
    True
    """
    limit, limit_of_few, most = _LIMITS[a.dtype.name]
    a2 = matmul(a, a)
    angle = _log2_angle(jax.lax.stop_gradient(a2))
    squarings = lambda limit: jnp.maximum(jnp.ceil(angle - math.log2(limit)), 0).astype(jnp.int32)
    needed, few = squarings(limit), squarings(limit_of_few)
    needed = jnp.where(few <= _FEW, jnp.minimum(needed, _FEW), needed)
    needed = jnp.minimum(needed, most + 1)
    common = largest(needed)
    needed = jnp.maximum(needed, jnp.minimum(common, _UNROLLED))
    scale = jnp.where(needed > most, jnp.nan, jnp.ldexp(jnp.ones([], a.dtype), -needed))
    x = _taylor(a, a2, scale[..., None, None])

    def from_level(k):
        if k == _UNROLLED:
            # Computes its intermediate results again for the derivative.
            return jax.checkpoint(lambda x: _square_each(x, needed - k, most))
        more = lambda x: from_level(k + 1)(matmul(x, x))
        return lambda x: jax.lax.cond(common > k, more, lambda x: x, x)

    return from_level(0)(x)


def _geodesic(base, theta):
    n, p = base.shape[-2:]
    inner = gram(base, theta)
    if n == p:
        return times(base, expm(skew(inner)))
    if n < 2 * p:
        t = theta - matmul(base, inner) / 2
        return matmul(expm(2 * skew(matmul(t, base.mT))), base)
    # A maps B X + E Y to B (K X - E'E Y) + E X: on the coefficients (X, Y) it is a 2p x 2p matrix,
    # similar to a skew-symmetric one, without the QR decomposition of E. Scaling E balances its
    # blocks and changes nothing else.
    normal = theta - matmul(base, inner)
    e = matmul(normal.mT, normal)
    scale = jax.lax.stop_gradient(jnp.sqrt(frobenius(e)))[..., None, None]
    scale = jnp.where(scale > 0, scale, 1)
    k, eye = skew(inner), jnp.broadcast_to(eye_like(e), e.shape)
    a = jnp.concatenate(
        [
            jnp.concatenate([k, -e / scale], axis=-1),
            jnp.concatenate([scale * eye, jnp.zeros_like(e)], axis=-1),
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

    Cost of `forward`: square, 2 products and those of `expm` (3 or more); tall, 5 products n p^2
    and `expm` of 2p x 2p. With `rebase_every=1` no derivative of `expm` is taken. Holds two copies
    of W (base, theta).

    >>> import jax.numpy as jnp, orthojax
    >>> p = orthojax.exponential()
    >>> base, theta = p.init(jnp.eye(2))
    >>> quarter_turn = p.forward(base, jnp.pi / 2 * jnp.array([[0., -1.], [1., 0.]]))
    >>> bool(jnp.allclose(quarter_turn, jnp.array([[0., -1.], [1., 0.]]), atol=1e-6))
    True
    """

    return around_a_point(_forward, ignores_normal=True)
