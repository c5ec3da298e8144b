"""Bijections of R^n with exact log-determinants in O(n): parts of normalizing flows.

Points are the last axis of `z` [..., n]. Parameters are shared by all points, e.g. `q` [n, p], or
come one set a point from a network ("amortized"), e.g. `q` [..., n, p]. All return (image, log|det
of the Jacobian| [...]), float32 at least; `*_inverse` the preimage and the log-determinant of the
inverse, so that both directions chain.
"""

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from orthojax.linalg import at_least_float32, matmul
from orthojax.maps.householder import reflect, unscaled

# How near -1 `invertible` lets the product of two diagonal entries come. The derivative of a layer
# is then at least this, its inverse finite in float32.
MARGIN = 1e-3


def _wide(*arrays):
    return map(at_least_float32, map(jnp.asarray, arrays))


def _times(matrix, x):
    """A x for `matrix` [n, p], in one product for all points `x` [..., p]; or [..., n, p]."""
    if matrix.ndim == 2:
        return matmul(x, matrix.mT)
    return matmul(matrix, x[..., None])[..., 0]


def _diagonal(matrix):
    return jnp.diagonal(matrix, axis1=-2, axis2=-1)


def householder_flow(z: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
    """H(v_1) ... H(v_k) z, H(v) = I - 2 v v' / v'v, H(0) = I: a rotation or reflection, log|det| 0.

    Its inverse is that of the reversed normals, `v[..., ::-1]`. After a Gaussian with diagonal
    covariance it gives a full covariance (Tomczak, Welling 2016, arXiv:1611.09630).

    Args:
      z: [..., n].
      v: normals as columns, [n, k] or [..., n, k]; k is free, but k > n reach nothing more.

    Cost: 4 n k a point for amortized normals, as products of compact WY form for shared ones.

    >>> import jax.numpy as jnp
    >>> householder_flow(jnp.array([[3.0, 4.0]]), jnp.array([[1.0], [0.0]]))[0]
    Array([[-3.,  4.]], dtype=float32)
    """
    z, v = _wide(z, v)
    if z.shape[-1] != v.shape[-2]:
        raise ValueError(
            f"`v` [..., n, k] holds normals in the space of `z` [..., n], got {v.shape} for "
            f"{z.shape}."
        )
    return _reflected(v, z), jnp.zeros(z.shape[:-1], z.dtype)


def _reflected(v, x):
    """H(v_1) ... H(v_k) x of points `x` [..., n]."""
    if v.ndim == 2:
        flat = x.reshape(-1, x.shape[-1])
        return reflect(v, flat.mT).mT.reshape(x.shape)
    # One vector a matrix: its gram V'V would cost more than the reflections themselves.
    v = unscaled(v)
    squares = jnp.sum(v * v, axis=-2)
    scaled = v * (2 / jnp.where(squares > 0, squares, 1))[..., None, :]
    for i in reversed(range(v.shape[-1])):
        x = x - scaled[..., i] * jnp.sum(v[..., i] * x, axis=-1, keepdims=True)
    return x


def _ratio(a):
    """m(a) / a of the m of `invertible`, which is 1 for a >= 0, and the same minus 1."""
    x = jnp.minimum(a, 0) / (1 - MARGIN)
    small = x > -1e-3  # There by its series: the quotient cancels, and its derivative.
    series = x / 2 * (1 + x / 3 * (1 + x / 4))
    quotient = jnp.expm1(x) / jnp.where(small, -1, x)
    return jnp.where(small, 1 + series, quotient), jnp.where(small, series, quotient - 1)


def invertible(r: jax.Array, r_tilde: jax.Array) -> jax.Array:
    """`r` with the diagonal that makes `sylvester` invertible: r_ii r~_ii > -1, as |tanh'| <= 1.

    r_ii is scaled so that the product a = r_ii r~_ii becomes m(a) = a for a >= 0, exp(a) - 1
    otherwise (but for a margin of .001: (1 - .001) (exp(a / (1 - .001)) - 1)). Every pair of
    diagonals with products above -1 + .001 is reached; the tanh of both diagonals (van den Berg et
    al. 2018) reaches products in (-1, 1), and in float32 -1 itself.

    >>> import jax.numpy as jnp
    >>> r = invertible(jnp.diag(jnp.array([2.0, -50.0])), jnp.eye(2))
    >>> [f"{x:.3f}" for x in jnp.diag(r)]
    ['2.000', '-0.999']
    """
    r, r_tilde = _wide(r, r_tilde)
    eye = jnp.eye(r.shape[-1], dtype=r.dtype)
    ratio, _ = _ratio(_diagonal(r) * _diagonal(r_tilde))
    return r * jnp.where(eye > 0, ratio[..., None], 1)


def _check_sylvester(z, q, r, r_tilde, bias):
    n, p = q.shape[-2:]
    if z.shape[-1] != n or p > n:
        raise ValueError(
            "`q` [..., n, p] holds p <= n orthonormal columns in the space of `z` [..., n], got "
            f"{q.shape} for {z.shape}."
        )
    _check_triangles(p, r, r_tilde, bias)


def _check_triangles(p, r, r_tilde, bias):
    if r.shape[-2:] != (p, p) or r_tilde.shape[-2:] != (p, p) or bias.shape[-1:] != (p,):
        raise ValueError(
            f"`r` and `r_tilde` are {p} x {p} and `bias` has {p} entries here, got {r.shape}, "
            f"{r_tilde.shape} and {bias.shape}."
        )


def _triangular(x, r, r_tilde, bias):
    """R tanh(R~ x + b) and log|det(I + R diag(tanh') R~)| = sum log(1 + r_ii r~_ii tanh'_i): by
    Sylvester's identity a p x p determinant, of triangular matrices."""
    r, r_tilde = jnp.triu(r), jnp.triu(r_tilde)
    h = jnp.tanh(_times(r_tilde, x) + bias)
    slopes = _diagonal(r) * _diagonal(r_tilde) * (1 - h * h)
    return _times(r, h), jnp.sum(jnp.log1p(slopes), axis=-1)


def sylvester(
    z: jax.Array, q: jax.Array, r: jax.Array, r_tilde: jax.Array, bias: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """z + Q R tanh(R~ Q'z + b), Q'Q = I, R and R~ upper triangular.

    Orthogonal Sylvester flow (van den Berg et al. 2018, arXiv:1803.05649), a residual layer
    of p hidden units whose log|det| is sum_i log(1 + r_ii r~_ii tanh'_i). A bijection where all
    r_ii r~_ii > -1: pass `invertible(r, r_tilde)` for `r`.

    Args:
      z: [..., n].
      q: [n, p] or [..., n, p], p <= n, with orthonormal columns: the caller's to ensure, e.g. by
        `orthojax.orthogonal`.
      r, r_tilde: [p, p] or [..., p, p], of which the upper triangles are read.
      bias: [p] or [..., p].

    Raises:
      ValueError: shapes that do not go together.

    Cost: 4 n p + 2 p^2 a point; the log-determinant p of that.

    >>> import jax, jax.numpy as jnp
    >>> q, r = jnp.eye(3)[:, :2], jnp.ones((2, 2))
    >>> z, log_det = sylvester(jnp.zeros((5, 3)), q, r, r, jnp.zeros(2))
    >>> z.shape, bool(jnp.allclose(log_det, 2 * jnp.log(2.0)))
    ((5, 3), True)
    """
    z, q, r, r_tilde, bias = _wide(z, q, r, r_tilde, bias)
    _check_sylvester(z, q, r, r_tilde, bias)
    step, log_det = _triangular(_times(q.mT, z), r, r_tilde, bias)
    return z + _times(q, step), log_det


def sylvester_inverse(
    y: jax.Array, q: jax.Array, r: jax.Array, r_tilde: jax.Array, bias: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The inverse of `sylvester`, and its log|det|: p increasing scalar equations, one after the
    other, each by bisection and two Newton steps; differentiable."""
    y, q, r, r_tilde, bias = _wide(y, q, r, r_tilde, bias)
    _check_sylvester(y, q, r, r_tilde, bias)
    image = _times(q.mT, y)
    x = _triangular_inverse(image, r, r_tilde, bias)
    return y + _times(q, x - image), -_triangular(x, r, r_tilde, bias)[1]


def householder_sylvester(
    z: jax.Array, v: jax.Array, r: jax.Array, r_tilde: jax.Array, bias: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """`sylvester` with Q = H(v_1) ... H(v_k), square, never formed: 8 n k + 2 n^2 a point.

    The Householder Sylvester flow (H-SNF) of van den Berg et al. 2018, arXiv:1803.05649.

    Args:
      z: [..., n].
      v: normals as columns, [n, k] or [..., n, k].
      r, r_tilde, bias: as for `sylvester`, with p = n.
    """
    z, v, r, r_tilde, bias = _wide(z, v, r, r_tilde, bias)
    _check_triangles(z.shape[-1], r, r_tilde, bias)
    x, zeros = householder_flow(z, v[..., ::-1])
    step, log_det = _triangular(x, r, r_tilde, bias)
    return z + _reflected(v, step), zeros + log_det


def householder_sylvester_inverse(
    y: jax.Array, v: jax.Array, r: jax.Array, r_tilde: jax.Array, bias: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The inverse of `householder_sylvester`, and its log|det|, as `sylvester_inverse`."""
    y, v, r, r_tilde, bias = _wide(y, v, r, r_tilde, bias)
    _check_triangles(y.shape[-1], r, r_tilde, bias)
    image, _ = householder_flow(y, v[..., ::-1])
    x = _triangular_inverse(image, r, r_tilde, bias)
    return y + _reflected(v, x - image), -_triangular(x, r, r_tilde, bias)[1]


def planar(
    z: jax.Array, u: jax.Array, w: jax.Array, bias: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """z + u^ tanh(w'z + b): one hidden unit (Rezende, Mohamed 2015, arXiv:1505.05770).

    u^ = u + (m(w'u) - w'u) w / |w|^2 has w'u^ = m(w'u) > -1, with the m of `invertible` instead of
    the paper's log(1 + exp(.)) - 1, which moves u by a multiple of w / |w|^2 where w is small. A
    special case of `sylvester` with p = 2.

    Args:
      z: [..., n].
      u, w: [n] or [..., n].
      bias: [] or [...].
    """
    z, u, w, bias = _wide(z, u, w, bias)
    u, product = _planar_step(u, w)
    h = jnp.tanh(jnp.sum(w * z, axis=-1) + bias)
    return z + u * h[..., None], jnp.log1p(product * (1 - h * h))


def planar_inverse(
    y: jax.Array, u: jax.Array, w: jax.Array, bias: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The inverse of `planar`, and its log|det|, by one increasing scalar equation."""
    y, u, w, bias = _wide(y, u, w, bias)
    u, product = _planar_step(u, w)
    s = jnp.sum(w * y, axis=-1) + bias
    h = jnp.tanh(_solve(*jnp.broadcast_arrays(product, s)))
    return y - u * h[..., None], -jnp.log1p(product * (1 - h * h))


def _planar_step(u, w):
    """u^ and w'u^, with finite derivatives where w all but vanishes: training may have it so."""
    product = jnp.sum(w * u, axis=-1)
    direction = unscaled(w[..., None])[..., 0]
    square = jnp.sum(direction * direction, axis=-1)
    direction = direction / jnp.sqrt(jnp.where(square > 0, square, 1))[..., None]
    ratio, excess = _ratio(product)
    along = excess * jnp.sum(direction * u, axis=-1)
    return u + along[..., None] * direction, ratio * product


def qr_linear(z: jax.Array, q: jax.Array, r: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Q R z with orthogonal Q and upper triangular R: log|det| = sum_i log|r_ii|.

    Every invertible matrix is one, with r_ii > 0. Of the channels of an image it is an invertible
    1 x 1 convolution (Kingma, Dhariwal 2018, arXiv:1807.03039, which has P L U; Q R in Hoogeboom,
    van den Berg, Welling 2019, arXiv:1901.11137): add log|det| over the pixels.

    Args:
      z: [..., n].
      q: [n, n] or [..., n, n], orthogonal: the caller's to ensure.
      r: [n, n] or [..., n, n], of which the upper triangle is read; no zeros on the diagonal.

    >>> import jax.numpy as jnp
    >>> image = jnp.ones((8, 8, 3))
    >>> y, log_det = qr_linear(image, jnp.eye(3), 2 * jnp.eye(3))
    >>> y.shape, log_det.shape, bool(jnp.allclose(log_det.sum(), 64 * 3 * jnp.log(2.0)))
    ((8, 8, 3), (8, 8), True)
    """
    z, q, r = _wide(z, q, r)
    _check_linear(z, q, r)
    return _times(q, _times(jnp.triu(r), z)), _log_det(z, r)


def qr_linear_inverse(y: jax.Array, q: jax.Array, r: jax.Array) -> tuple[jax.Array, jax.Array]:
    """R^{-1} Q'y, by a triangular solve, and its log|det|: the inverse of `qr_linear`."""
    y, q, r = _wide(y, q, r)
    _check_linear(y, q, r)
    x = _times(q.mT, y)
    if r.ndim == 2:
        flat = x.reshape(-1, x.shape[-1])
        x = solve_triangular(r, flat.mT).mT.reshape(x.shape)
    else:
        x = solve_triangular(r, x[..., None])[..., 0]
    return x, -_log_det(y, r)


def _check_linear(z, q, r):
    n = z.shape[-1]
    if q.shape[-2:] != (n, n) or r.shape[-2:] != (n, n):
        raise ValueError(
            f"`q` and `r` are square, {n} x {n} for `z` of shape {z.shape}, got {q.shape} and "
            f"{r.shape}."
        )


def _log_det(z, r):
    log_det = jnp.sum(jnp.log(jnp.abs(_diagonal(r))), axis=-1)
    return jnp.broadcast_to(log_det, z.shape[:-1])


def _triangular_inverse(image, r, r_tilde, bias):
    """x with x + R tanh(R~ x + b) = `image`, from its last entry to its first."""
    r, r_tilde = jnp.triu(r), jnp.triu(r_tilde)
    p = image.shape[-1]
    bias = jnp.broadcast_to(bias, image.shape)

    def solve_one(k, found):
        # Entries of x and h that are not found yet are 0.
        x, h = found
        i = p - 1 - k
        at = lambda a: jax.lax.dynamic_index_in_dim(a, i, a.ndim - 1, keepdims=False)
        row = lambda a: jax.lax.dynamic_index_in_dim(a, i, a.ndim - 2, keepdims=False)
        outer, inner = at(row(r)), at(row(r_tilde))
        rest = at(image) - jnp.sum(row(r) * h, axis=-1)
        s = inner * rest + jnp.sum(row(r_tilde) * x, axis=-1) + at(bias)
        h_i = jnp.tanh(_solve(*jnp.broadcast_arrays(outer * inner, s)))
        one = jax.nn.one_hot(i, p, dtype=x.dtype)
        return x + one * (rest - outer * h_i)[..., None], h + one * h_i[..., None]

    zeros = jnp.zeros_like(image)
    return jax.lax.fori_loop(0, p, solve_one, (zeros, zeros))[0]


@jax.custom_jvp
def _solve(a, s):
    """The one t with t + a tanh(t) = s, a > -1, of the sign of s."""
    size = jnp.abs(s)
    low = jnp.maximum(size - jnp.maximum(a, 0), 0)
    high = size + jnp.maximum(-a, 0)

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        below = middle + a * jnp.tanh(middle) < size
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    low, high = jax.lax.fori_loop(0, jnp.finfo(s.dtype).nmant + 4, halve, (low, high))
    t = (low + high) / 2
    for _ in range(2):
        h = jnp.tanh(t)
        t = jnp.clip(t - (t + a * h - size) / (1 + a * (1 - h * h)), low, high)
    return jnp.where(s < 0, -t, t)


@_solve.defjvp
def _(primals, tangents):
    (a, s), (da, ds) = primals, tangents
    t = _solve(a, s)
    h = jnp.tanh(t)
    return t, (ds - h * da) / (1 + a * (1 - h * h))


def standard_normal(z: jax.Array) -> jax.Array:
    """log N(z; 0, I) [...] of `z` [..., n], in nats."""
    (z,) = _wide(z)
    return -0.5 * jnp.sum(z * z + jnp.log(2 * jnp.pi), axis=-1)
