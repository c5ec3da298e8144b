"""The rotation nearest to a square matrix: special orthogonal Procrustes, the 9D head of networks.

3 x 3 matrices go through a few sweeps of Jacobi rotations written as sums and products over the
batch: neither LAPACK, which takes one matrix after another, nor what accelerators have for SVDs.
"""

import jax
import jax.numpy as jnp

from orthojax.linalg import at_least_float32, matmul, skew, sym

# The second sweep of Gaussian matrices leaves columns parallel, the fourth rounding only.
_SWEEPS = 5


def nearest_rotation(x: jax.Array) -> jax.Array:
    """argmax tr(R'X) over rotations R: U diag(1, ..., 1, det(U V')) V' of X = U S V'.

    The symmetric orthogonalization of Levinson et al. 2020, arXiv:2006.14616 (SVDO+): of all
    rotations the nearest to X in the Frobenius norm. X need not be near the rotations nor of
    positive determinant, and its scale does not matter.

    With P = R'X, symmetric, of eigenvalues s_i (the singular values, the least of them negative
    where det X < 0), dR = R Omega, Omega P + P Omega = R'dX - dX'R: a division by s_i + s_j, never
    by s_i - s_j as in the derivative of an SVD, which is NaN where singular values coincide. Both
    modes, of any order.

    R is not unique where s_{n-1} + s_n = 0, e.g. for zeros, for rank n - 2 and for reflections:
    one of the nearest comes out. There, and up to s_i + s_j of 8 eps sum |s|, where rounding
    decides on R, the derivative along the undetermined directions is 0. A head should not start
    there, as one of zeros does: give it the identity as bias.

    Args:
      x: [..., n, n], n >= 2. bfloat16 is computed and returned in float32.

    Returns:
      [..., n, n], orthogonal to rounding, det +1.

    Raises:
      TypeError: not of floating point.
      ValueError: not square.

    Cost: 5 sweeps of 3 plane rotations for n = 3, otherwise an SVD; the derivative takes 8 products
    more. Of 4,096 3 x 3 matrices in float32 on one core, .16 us a matrix and .31 with gradient; by
    `jnp.linalg.svd` and its derivative 3.2 and 4.9.

    >>> import jax, jax.numpy as jnp
    >>> nearest_rotation(jnp.diag(jnp.array([3.0, 2.0, -1.0])))  # Not a reflection.
    Array([[1., 0., 0.],
           [0., 1., 0.],
           [0., 0., 1.]], dtype=float32)
    >>> bool(jnp.isfinite(jax.jacobian(nearest_rotation)(jnp.eye(3))).all())
    True
    """
    if x.ndim < 2 or x.shape[-1] != x.shape[-2] or x.shape[-1] < 2:
        raise ValueError(
            "`nearest_rotation` takes square matrices [..., n, n], n >= 2, of which 9 numbers "
            f"[..., 9] are made by `rotation_from_9d`; got {x.shape}."
        )
    x = at_least_float32(x)
    # Squares of 1e30 overflow. R does not depend on the scale, so that this has no derivative.
    entry = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True))
    return _nearest(x / jnp.where(entry > 0, entry, 1))[0]


@jax.custom_jvp
def _nearest(x):
    """R, and the eigenvectors V and eigenvalues s of R'X, which are constants to derivatives."""
    return _jacobi(x) if x.shape[-1] == 3 else _by_svd(x)


@_nearest.defjvp
def _(primals, tangents):
    (x,), (dx,) = primals, tangents
    r, v, s = _nearest(x)
    p = sym(matmul(r.mT, x))
    sums = s[..., :, None] + s[..., None, :]
    lost = sums <= 8 * jnp.finfo(x.dtype).eps * jnp.sum(jnp.abs(s), axis=-1)[..., None, None]
    sums = jnp.where(lost, jnp.inf, sums)
    # V and s solve the equation; its own derivative, for those of higher order, is taken from P.
    omega = jax.lax.custom_linear_solve(
        lambda omega: matmul(omega, p) + matmul(p, omega),
        2 * skew(matmul(r.mT, dx)),
        lambda _, b: matmul(matmul(v, matmul(matmul(v.mT, b), v) / sums), v.mT),
        symmetric=True,
    )
    return (r, v, s), (matmul(r, omega), jnp.zeros_like(v), jnp.zeros_like(s))


def _by_svd(x):
    u, s, vt = jnp.linalg.svd(x, full_matrices=False)
    last = (jnp.linalg.det(matmul(u, vt)) < 0)[..., None]
    flip = lambda x: jnp.where(last & (jnp.arange(x.shape[-1]) == x.shape[-1] - 1), -x, x)
    return matmul(u, flip(vt.mT).mT), vt.mT, flip(s)


def _jacobi(x):
    # Column j of X and of V = I, [6, ...] each: rotations of column pairs make X V orthogonal
    # (one-sided Jacobi, Hestenes 1958).
    v = jnp.broadcast_to(jnp.eye(3, dtype=x.dtype), x.shape)
    columns = jnp.moveaxis(jnp.concatenate([x, v], axis=-2), (-1, -2), (0, 1))

    def rotate(p, q):
        difference = jnp.sum(q[:3] * q[:3] - p[:3] * p[:3], axis=0)
        product = 2 * jnp.sum(p[:3] * q[:3], axis=0)
        scale = jnp.abs(difference) + jnp.sqrt(difference * difference + product * product)
        tan = jnp.where(difference < 0, -product, product) / jnp.where(scale == 0, 1, scale)
        cos = jax.lax.rsqrt(1 + tan * tan)
        return cos * (p - tan * q), cos * (q + tan * p)

    def sweep(_, columns):
        a, b, c = columns
        a, b = rotate(a, b)
        a, c = rotate(a, c)
        b, c = rotate(b, c)
        return a, b, c

    def order(p, q):
        """The longer first, by a swap that is a rotation."""
        swap = jnp.sum(q[:3] * q[:3], axis=0) > jnp.sum(p[:3] * p[:3], axis=0)
        return jnp.where(swap, q, p), jnp.where(swap, -p, q)

    a, b, c = jax.lax.fori_loop(0, _SWEEPS, sweep, tuple(columns))
    a, b = order(a, b)
    a, c = order(a, c)
    b, c = order(b, c)
    columns = jnp.moveaxis(jnp.stack([a, b, c]), (0, 1), (-1, -2))
    xv, v = columns[..., :3, :], columns[..., 3:, :]
    # The third left vector is the cross product of the others, whatever the third column is.
    u = frame(xv[..., 0], xv[..., 1])
    return matmul(u, v.mT), v, jnp.sum(u * xv, axis=-2)


def cross_matrix(v: jax.Array) -> jax.Array:
    """[v] of `v` [..., 3], skew-symmetric [..., 3, 3]: [v] w = v x w.

    >>> import jax.numpy as jnp
    >>> cross_matrix(jnp.array([1, 2, 3]))
    Array([[ 0, -3,  2],
           [ 3,  0, -1],
           [-2,  1,  0]], dtype=int32)
    """
    x, y, z = jnp.moveaxis(v, -1, 0)
    o = jnp.zeros_like(x)
    rows = [[o, -z, y], [z, o, -x], [-y, x, o]]
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def axial(a: jax.Array) -> jax.Array:
    """v [..., 3] of [v] = A - A' for `a` [..., 3, 3]."""
    return jnp.stack(
        [
            a[..., 2, 1] - a[..., 1, 2],
            a[..., 0, 2] - a[..., 2, 0],
            a[..., 1, 0] - a[..., 0, 1],
        ],
        axis=-1,
    )


def norm(v: jax.Array) -> jax.Array:
    """Lengths [..., 1] of `v` [..., k], with derivative 0 at 0 instead of NaN."""
    square = jnp.sum(v * v, axis=-1, keepdims=True)
    zero = square == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, square)))


def frame(a: jax.Array, b: jax.Array) -> jax.Array:
    """Rotations [..., 3, 3] with the columns a/|a|, what b has orthogonal to it, and their cross
    product; of `a` and `b` [..., 3].

    Of parallel a and b, by rounding, any such rotation, with derivative 0 along what is undefined;
    of a = 0 one that begins with the first axis.
    """
    a, b = _to_scale(a), _to_scale(b)
    length = norm(a)
    first = jnp.eye(3, dtype=a.dtype)[0]
    a = jnp.where(length == 0, first, a / jnp.where(length == 0, 1, length))
    remove = lambda b: b - jnp.sum(a * b, axis=-1, keepdims=True) * a
    rest, least = remove(b), 8 * jnp.finfo(b.dtype).eps * norm(jax.lax.stop_gradient(b))
    parallel = norm(jax.lax.stop_gradient(rest)) <= least
    # Orthogonal to a: the axis that it has the least of.
    least_axis = jax.nn.one_hot(jnp.argmin(jnp.abs(a), axis=-1), 3, dtype=a.dtype)
    rest = jnp.where(parallel, remove(least_axis), rest)
    # Of a nearly parallel b only digits are left that rounding has turned towards a: once more.
    b = remove(rest / norm(rest))
    b = b / norm(b)
    return jnp.stack([a, b, jnp.cross(a, b)], axis=-1)


def _to_scale(v):
    """v / max |v_i|, which changes the direction of no derivative: squares of 1e30 overflow."""
    entry = jax.lax.stop_gradient(jnp.max(jnp.abs(v), axis=-1, keepdims=True))
    return v / jnp.where(entry > 0, entry, 1)
