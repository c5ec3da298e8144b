"""Matrix exponential: W = exp(A) B, A skew-symmetric."""

import math
from typing import NamedTuple

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
# That of degree 12 by 4 products: the same authors, sec. 3.2, in the numbers that PyTorch computes
# with. Rows are combinations of 1, A, A^2, A^3.
_B = (
    (0.0, 0.46932117595418237389, -0.20099424927047284052, -0.04623946134063071740),
    (
        5.31597895759871264183,
        1.19926790417132231573,
        0.01179296240992997031,
        0.01108844528519167989,
    ),
    (
        0.18188869982170434744,
        0.05502798439925399070,
        0.09351590770535414968,
        0.00610700528898058230,
    ),
    (-2.0861320e-13, -0.13181061013830184015, -0.02027855540589259079, -0.00675951846863086359),
)


class _Limits(NamedTuple):
    """Norms that a polynomial of degree d may get; the truncated term is norm^(d + 1) / (d + 1)!,
    and doubled at each squaring."""

    largest: float
    of_few: float  # where `_FEW` squarings or less are enough
    most: int  # squarings


_LIMITS = {
    ("float32", 8): _Limits(0.6, 0.75, 12),
    ("float32", 12): _Limits(1.49, 1.75, 11),
    ("float64", 8): _Limits(0.05, 0.05, 17),
    ("float64", 12): _Limits(0.26, 0.26, 15),
}
_FEW = 2
# Up to this n degree 12 and one squaring come cheaper than degree 8 and two or three; beyond, its
# sums of four matrices cost what it saves.
_SMALL = 256


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


def _degree_8(a, a2):
    """The polynomial of A, with its square at hand."""
    eye = eye_like(a)
    a4 = matmul(a2, _X1 * a + _X2 * a2)
    a8 = matmul(_X3 * a2 + a4, _X4 * eye + _X5 * a + _X6 * a2 + _X7 * a4)
    return eye + a + _Y2 * a2 + a8


def _degree_12(a, a2):
    """The polynomial of A, with its square at hand."""
    powers = (eye_like(a), a, a2, matmul(a2, a))
    b1, b2, b3, b4 = (sum(c * x for c, x in zip(row, powers, strict=True) if c) for row in _B)
    a6 = b3 + matmul(b4, b4)
    return b1 + matmul(b2 + a6, a6)


def _square_each(x, needed, most):
    """X^(2^needed) of each matrix; the derivative computes the squares again."""

    def square(x, k):
        squared = lambda x: jnp.where(k < needed[..., None, None], matmul(x, x), x)
        return jax.lax.cond(k < largest(needed), squared, lambda x: x, x), None

    return jax.lax.scan(square, x, jnp.arange(most, dtype=jnp.int32))[0]


def expm(a: jax.Array) -> jax.Array:
    """exp(A) of `a` [..., n, n] that is skew-symmetric, or similar to a skew-symmetric matrix.

    Taylor polynomials, scaling and squaring: 3 products for norms |A|_2 up to 0.75 and one more for
    each doubling, for n <= 256 no more than 5 up to 3.5 (float32; float64 squares 3 or 4 times
    more). How often, 8 vectors times the square of A say. Any number of matrices is one batch, also
    under `vmap`: all are squared as often as the largest norm asks, up to 3 times, beyond that each
    as often as its own does. Norms above 2400 give NaN rather than a wrong rotation. Both
    derivative modes, of any order; value and gradient together cost three times the value. Error in
    float32 below 1e-6 (1 + |A|_2 / 4).

    `jax.scipy.linalg.expm` takes too few squarings for norms in (3.93, 7.85) * 2^k and is wrong
    there by up to 4e-3, with a result that still looks orthogonal.

    >>> import jax.numpy as jnp
    >>> half_turn = expm(jnp.array([[0., -jnp.pi], [jnp.pi, 0.]]))
    >>> bool(jnp.allclose(half_turn, -jnp.eye(2), atol=1e-6))
    True
    """
    if a.shape[-1] <= _SMALL:
        return _expm_of_small(a)
    a2 = matmul(a, a)
    angle = _log2_angle(jax.lax.stop_gradient(a2))
    needed, common, most = _squarings(angle, 8)
    needed = jnp.maximum(needed, jnp.minimum(common, 3))
    x = _degree_8(*_scaled(a, a2, needed, most))

    def from_level(k):
        if k == 3:
            return _more_squares(needed - k, most)
        more = lambda x: from_level(k + 1)(matmul(x, x))
        return lambda x: jax.lax.cond(common > k, more, lambda x: x, x)

    return from_level(0)(x)


@jax.custom_jvp
def _expm_of_small(a):
    a2 = matmul(a, a)
    angle = _log2_angle(a2)
    _, common, _ = _squarings(angle, 8)
    degree_8 = lambda a, a2, _: _degree_8(a, a2)
    return jax.lax.cond(common > 0, _by_degree_12, degree_8, a, a2, angle)


@_expm_of_small.defjvp
def _(primals, tangents):
    # Without the branch, which would keep what either side needs for its derivative.
    def without_branch(a):
        a2 = matmul(a, a)
        return _by_degree_12(a, a2, _log2_angle(jax.lax.stop_gradient(a2)))

    return jax.jvp(without_branch, primals, tangents)


def _by_degree_12(a, a2, angle):
    needed, common, most = _squarings(angle, 12)
    needed = jnp.maximum(needed, 1)
    x = _degree_12(*_scaled(a, a2, needed, most))
    more = _more_squares(needed - 1, most)
    return jax.lax.cond(common > 1, more, lambda x: x, matmul(x, x))


def _squarings(angle, degree):
    """How many each matrix needs whose largest angle is 2^angle, the most that one of them needs,
    and the most there are."""
    limits = _LIMITS[angle.dtype.name, degree]
    count = lambda limit: jnp.maximum(jnp.ceil(angle - math.log2(limit)), 0).astype(jnp.int32)
    few = count(limits.of_few)
    needed = jnp.where(few <= _FEW, few, count(limits.largest))
    needed = jnp.minimum(needed, limits.most + 1)
    return needed, largest(needed), limits.most


def _scaled(a, a2, needed, most):
    """A and its square for a polynomial with `needed` squarings; NaN if that is above `most`."""
    scale = jnp.where(needed > most, jnp.nan, jnp.ldexp(jnp.ones([], a.dtype), -needed))
    scale = scale[..., None, None]
    return scale * a, scale**2 * a2


def _more_squares(needed, most):
    """X -> X^(2^needed), which computes its squares again for the derivative."""
    return jax.checkpoint(lambda x: _square_each(x, needed, most))


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
