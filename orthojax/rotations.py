"""Heads that make rotations, SO(3), of the numbers that a network puts out, [..., k] -> [..., 3,
3]; and angles between rotations.

Rotations are active and act on columns: R v is v turned, by the right-hand rule; rows, x [points,
3], are turned by x R'. R S turns by S first. Quaternions are (w, x, y, z), the real part first, and
q and -q are the same rotation; SciPy's are (x, y, z, w) unless told `scalar_first=True`.

Networks fit 6D and 9D, which are continuous, better than 3 or 4 numbers, which cannot be: every map
from rotations to quaternions or rotation vectors jumps somewhere (Zhou et al. 2019,
arXiv:1812.07035).

bfloat16 and float16 are computed and returned in float32: a rotation of 8 bits is none.
"""

import jax
import jax.numpy as jnp

from orthojax.linalg import at_least_float32, matmul
from orthojax.nearest_rotation import axial, cross_matrix, frame, nearest_rotation, norm


def rotation_from_6d(x: jax.Array) -> jax.Array:
    """Gram-Schmidt of two columns a = x[:3] and b = x[3:]: [a/|a|, b'/|b'|, their cross product],
    b' what b has orthogonal to a. Zhou et al. 2019, arXiv:1812.07035, sec. 4.

    The inverse is `jnp.concatenate([r[..., 0], r[..., 1]], -1)`. PyTorch3D takes rows instead of
    columns: its rotations are the transposes of these.

    Never NaN: for parallel a and b (by rounding) some rotation with the first column a/|a| comes
    out, which does not depend on b; for a = 0 one with the first axis as first column.

    Args:
      x: [..., 6], of any scale.

    Returns:
      [..., 3, 3], orthogonal to rounding.

    Raises:
      TypeError: not of floating point.
      ValueError: not of 6 numbers.

    >>> import jax.numpy as jnp
    >>> rotation_from_6d(jnp.array([2.0, 0.0, 0.0, 5.0, 0.0, 1.0]))
    Array([[ 1.,  0.,  0.],
           [ 0.,  0., -1.],
           [ 0.,  1.,  0.]], dtype=float32)
    """
    x = _checked(x, 6, "rotation_from_6d")
    return frame(x[..., :3], x[..., 3:])


def rotation_from_9d(x: jax.Array) -> jax.Array:
    """`nearest_rotation` of the 3 x 3 matrices with the rows x[:3], x[3:6], x[6:].

    To train without it, by the loss |X - R|_F^2 of the bare matrix X, and to make a rotation of it
    at inference only, is recommended by Gu et al. 2023, arXiv:2312.00462, and Choy 2026,
    arXiv:2604.05414: the derivative has the singular values 2 / (s_i + s_j).

    Args:
      x: [..., 9], of any scale.

    Returns:
      [..., 3, 3], orthogonal to rounding.

    Raises:
      TypeError: not of floating point.
      ValueError: not of 9 numbers.

    >>> import jax.numpy as jnp
    >>> rotation_from_9d(jnp.array([0.0, -2.0, 0.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.1]))
    Array([[ 0., -1.,  0.],
           [ 1.,  0.,  0.],
           [ 0.,  0.,  1.]], dtype=float32)
    """
    x = _checked(x, 9, "rotation_from_9d")
    return nearest_rotation(x.reshape(*x.shape[:-1], 3, 3))


def rotation_from_quaternion(q: jax.Array) -> jax.Array:
    """I + 2 (w [v] + [v]^2) / |q|^2 of q = (w, v), [v] the matrix of v x.

    Args:
      q: [..., 4], of any length; zeros are the identity, with derivative 0.

    Returns:
      [..., 3, 3].

    Raises:
      TypeError: not of floating point.
      ValueError: not of 4 numbers.

    >>> import jax.numpy as jnp
    >>> rotation_from_quaternion(jnp.array([3.0, 0.0, 0.0, 3.0]))  # A quarter turn about z.
    Array([[ 0., -1.,  0.],
           [ 1.,  0.,  0.],
           [ 0.,  0.,  1.]], dtype=float32)
    """
    q = _checked(q, 4, "rotation_from_quaternion")
    # Squares of 1e30 overflow. The rotation does not depend on the scale, nor its derivative.
    entry = jax.lax.stop_gradient(jnp.max(jnp.abs(q), axis=-1, keepdims=True))
    q = q / jnp.where(entry > 0, entry, 1)
    w, v = q[..., :1], q[..., 1:]
    square = jnp.sum(q * q, axis=-1, keepdims=True)
    factor = 2 / jnp.where(square == 0, 1, square)
    return _around(v, w * factor, factor)


def rotation_from_vector(v: jax.Array) -> jax.Array:
    """exp([v]) = I + sin(t)/t [v] + (1 - cos(t))/t^2 [v]^2, t = |v|, [v] the matrix of v x: the
    turn about v by |v| radians (Rodrigues).

    Derivatives of all orders are those of power series where t < 1. Beyond |v| = pi rotations come
    again, and at |v| = 2 pi the derivative is singular.

    Args:
      v: [..., 3].

    Returns:
      [..., 3, 3].

    Raises:
      TypeError: not of floating point.
      ValueError: not of 3 numbers.

    >>> import jax.numpy as jnp
    >>> r = rotation_from_vector(jnp.array([0.0, 0.0, jnp.pi / 2]))
    >>> (r @ jnp.array([2.0, 0.0, 0.0])).round(5) + 0.0
    Array([0., 2., 0.], dtype=float32)
    """
    v = _checked(v, 3, "rotation_from_vector")
    square = jnp.sum(v * v, axis=-1, keepdims=True)
    return _around(v, _sinc(square), _sinc(square / 4) ** 2 / 2)


def quaternion_from_rotation(r: jax.Array) -> jax.Array:
    """The unit quaternion (w, x, y, z), w >= 0, of a rotation.

    A row of 4 q q', which is linear in R, divided by its length; the row of the largest of the four
    |q_i|, which is at least 1/2 (Shepperd 1978): nothing small is divided by. Where w = 0, turns by
    pi, it is one of two.

    Args:
      r: [..., 3, 3], rotations to rounding.

    Returns:
      [..., 4].

    Raises:
      TypeError: not of floating point.
      ValueError: not of 3 x 3.

    >>> import jax.numpy as jnp
    >>> quaternion_from_rotation(jnp.diag(jnp.array([1.0, -1.0, -1.0])))  # Half a turn about x.
    Array([0., 1., 0., 0.], dtype=float32)
    """
    r = _checked_matrix(r, "quaternion_from_rotation")
    trace = jnp.trace(r, axis1=-2, axis2=-1)[..., None, None]
    v = axial(r)[..., None, :]
    eye = jnp.eye(3, dtype=r.dtype)
    top = jnp.concatenate([1 + trace, v], axis=-1)
    products = jnp.concatenate([v.mT, r + r.mT + (1 - trace) * eye], axis=-1)
    products = jnp.concatenate([top, products], axis=-2)
    largest = jnp.argmax(jnp.diagonal(products, axis1=-2, axis2=-1), axis=-1)
    row = jnp.take_along_axis(products, largest[..., None, None], axis=-2)[..., 0, :]
    q = row / norm(row)
    return jnp.where(q[..., :1] < 0, -q, q)


def vector_from_rotation(r: jax.Array) -> jax.Array:
    """log(R): the v with |v| <= pi of which R is `rotation_from_vector`.

    2 atan2(|u|, w) u / |u| of the quaternion (w, u): accurate to rounding at all angles, near 0 and
    near pi too. At pi, where v and -v are the same rotation, it is one of them, and its derivative
    is that of this branch.

    Args:
      r: [..., 3, 3], rotations to rounding.

    Returns:
      [..., 3].

    Raises:
      TypeError: not of floating point.
      ValueError: not of 3 x 3.

    >>> import jax.numpy as jnp
    >>> vector_from_rotation(rotation_from_vector(jnp.array([0.0, 3.0, 0.0]))).round(5)
    Array([0., 3., 0.], dtype=float32)
    """
    q = quaternion_from_rotation(_checked_matrix(r, "vector_from_rotation"))
    w, u = q[..., :1], q[..., 1:]
    sine = norm(u)
    # atan2(sine, w) / sine, by the series of atan where that is 0 / 0.
    small = sine < 0.2 * w
    square = jnp.where(small, sine / jnp.where(small, w, 1), 0) ** 2
    series = jnp.zeros_like(square)
    for k in reversed(range(12)):
        series = (-1) ** k / (2 * k + 1) + square * series
    series = series / jnp.where(small, w, 1)
    direct = jnp.arctan2(sine, w) / jnp.where(small, 1, sine)
    return 2 * jnp.where(small, series, direct) * u


def rotation_angle(r: jax.Array, s: jax.Array) -> jax.Array:
    """The angle of R'S in [0, pi], in radians: the geodesic distance of rotations.

    atan2(|v|, tr(R'S) - 1), [v] = R'S - S'R, is accurate to rounding at all angles, where
    arccos((tr - 1) / 2) is to its square root near 0 and pi, and its derivative NaN. Here the
    derivative at 0 and pi, where there is none, is 0.

    Args:
      r: [..., 3, 3], rotations to rounding.
      s: the same; shapes broadcast.

    Returns:
      [...].

    Raises:
      TypeError: not of floating point.
      ValueError: not of 3 x 3.

    >>> import jax.numpy as jnp
    >>> rotation_angle(jnp.eye(3), rotation_from_vector(jnp.array([1e-5, 0.0, 0.0])))
    Array(1.e-05, dtype=float32)
    """
    r = _checked_matrix(r, "rotation_angle")
    s = _checked_matrix(s, "rotation_angle")
    between = matmul(r.mT, s)
    sine = norm(axial(between))[..., 0]
    return jnp.arctan2(sine, jnp.trace(between, axis1=-2, axis2=-1) - 1)


def chordal_loss(x: jax.Array, r: jax.Array) -> jax.Array:
    """|X - R|_F^2 of `x` and rotations `r` [..., 3, 3], [...]: smooth everywhere.

    Of rotations 8 sin^2(t/2) of the angle t between them, about 2 t^2 for small ones. X need not be
    one: for the bare output of a 9D head it is the loss of which `nearest_rotation` is the minimum
    over R.

    Raises:
      TypeError: not of floating point.
      ValueError: not of 3 x 3.

    >>> import jax.numpy as jnp
    >>> chordal_loss(jnp.eye(3), jnp.diag(jnp.array([1.0, -1.0, -1.0])))
    Array(8., dtype=float32)
    """
    x, r = _checked_matrix(x, "chordal_loss"), _checked_matrix(r, "chordal_loss")
    return jnp.sum((x - r) ** 2, axis=(-2, -1))


def random_rotation(key: jax.Array, shape: tuple[int, ...] = (), dtype=jnp.float32) -> jax.Array:
    """Rotations [*shape, 3, 3] from the uniform (Haar) distribution: of normal quaternions.

    >>> import jax, jax.numpy as jnp
    >>> random_rotation(jax.random.key(0), (5,)).shape
    (5, 3, 3)
    """
    return rotation_from_quaternion(jax.random.normal(key, (*shape, 4), dtype))


def _around(v, a, b):
    """I + a [v] + b [v]^2 of `v` [..., 3], `a` and `b` [..., 1]."""
    # [v]^2 = v v' - |v|^2 I, without the products that a matrix times itself would take.
    a, b = a[..., None], b[..., None]
    square = jnp.sum(v * v, axis=-1)[..., None, None]
    eye = jnp.eye(3, dtype=v.dtype)
    return (1 - b * square) * eye + a * cross_matrix(v) + b * v[..., :, None] * v[..., None, :]


def _sinc(square):
    """sin(t) / t of t^2, by its power series where t < 1."""
    small = square < 1
    series = jnp.zeros_like(square)
    for k in reversed(range(1, 10)):  # 1 - t^2/6 (1 - t^2/20 (1 - ...
        series = (1 - series) * jnp.where(small, square, 0) / (2 * k * (2 * k + 1))
    t = jnp.sqrt(jnp.where(small, 1, square))
    return jnp.where(small, 1 - series, jnp.sin(t) / t)


def _checked(x, k, name):
    """`x` in float32 at least."""
    if x.ndim < 1 or x.shape[-1] != k:
        raise ValueError(f"`{name}` takes {k} numbers a rotation, [..., {k}], got {x.shape}.")
    return at_least_float32(x)


def _checked_matrix(x, name):
    if x.shape[-2:] != (3, 3):
        raise ValueError(f"`{name}` takes 3 x 3 matrices [..., 3, 3], got {x.shape}.")
    return at_least_float32(x)
