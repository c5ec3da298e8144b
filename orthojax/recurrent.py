"""Recurrences h_t = phi(x_t V + h_{t-1} W, b) with an orthogonal or unitary W.

Rows are samples and kernels are [in, out], as in Flax. Where phi has slopes of 1 and -1 only, the
Jacobian between any two times is orthogonal: gradients neither vanish nor explode, however long the
sequence. W itself is the weight, which the optimizer keeps orthogonal: at a time step it is
multiplied by, and nothing is computed of it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from orthojax.initializers import Initializer
from orthojax.linalg import wide_dtype

Activation = Callable[[jax.Array, jax.Array], jax.Array]


def mod_relu(z: jax.Array, bias: jax.Array) -> jax.Array:
    """sign(z) relu(|z| + b): ReLU of the modulus, which keeps the sign.

    The identity where b = 0; b < 0 erases |z| < -b. Arjovsky, Shah, Bengio 2016, arXiv:1511.06464,
    on real numbers as in Helfrich, Willmott, Ye 2018, arXiv:1707.09520. 0 at z = 0, and so is its
    derivative there.

    Args:
      z: [..., n].
      bias: b [n].

    >>> import jax.numpy as jnp
    >>> mod_relu(jnp.array([-2.0, 0.5, 3.0]), jnp.array([-1.0, -1.0, 1.0]))
    Array([-1.,  0.,  4.], dtype=float32)
    """
    return jnp.sign(z) * jax.nn.relu(jnp.abs(z) + bias)


def complex_mod_relu(z: jax.Array, bias: jax.Array) -> jax.Array:
    """relu(|z| + b) z / |z| of complex numbers: `mod_relu` that keeps the phase.

    Args:
      z: [..., 2n], n real parts and then n imaginary ones.
      bias: b [n].

    Returns:
      [..., 2n]; 0 at z = 0, and so is its derivative there.

    >>> import jax.numpy as jnp
    >>> complex_mod_relu(jnp.array([3.0, 0.0, 4.0, 0.0]), jnp.array([5.0, 1.0]))
    Array([6., 0., 8., 0.], dtype=float32)
    """
    x, y = jnp.split(z, 2, axis=-1)
    square = x * x + y * y
    is_zero = square == 0
    modulus = jnp.sqrt(jnp.where(is_zero, 1, square))  # No derivative of a root of 0, or NaN.
    scale = jnp.where(is_zero, 0, jax.nn.relu(modulus + bias) / modulus)
    return jnp.concatenate([scale * x, scale * y], axis=-1)


def unroll(
    kernel: jax.Array,
    bias: jax.Array,
    drive: jax.Array,
    state: jax.Array | None = None,
    activation: Activation = mod_relu,
    precision: jax.lax.PrecisionLike = None,
) -> jax.Array:
    """All states of h_t = activation(z_t + h_{t-1} W, b).

    One product [B, n] x [n, n] a time step, by `jax.lax.scan`, of which W is a constant. For a
    unitary kernel pass its `maps.unitary.real_form` and `complex_mod_relu`.

    Args:
      kernel: W [n, n].
      bias: b, whatever `activation` takes.
      drive: z_t = x_t V of all times [..., T, n]: one product, outside the recurrence.
      state: h_0 [..., n]; None is 0.
      activation: (pre-activation [..., n], bias) -> [..., n].
      precision: of the products; an accelerator's default, of 8 to 11 bits, is also the precision
        to which W is orthogonal.

    Returns:
      h_1, ..., h_T [..., T, n].

    >>> import jax.numpy as jnp
    >>> shift = jnp.array([[0., 1.], [1., 0.]])
    >>> unroll(shift, jnp.zeros(2), jnp.array([[1., 2.], [0., 0.]]))
    Array([[1., 2.],
           [2., 1.]], dtype=float32)
    """
    if kernel.shape[-1] != drive.shape[-1] or kernel.shape[-2] != kernel.shape[-1]:
        raise ValueError(
            "`kernel` is square, of as many columns as `drive` has; got "
            f"{tuple(kernel.shape)} for `drive` {tuple(drive.shape)}."
        )

    def step(h, z):
        h = activation(z + jnp.matmul(h, kernel, precision=precision), bias)
        return h, h

    drive = jnp.moveaxis(drive, -2, 0)
    if state is None:
        state = jnp.zeros(drive.shape[1:], jnp.result_type(drive, kernel, bias))
    return jnp.moveaxis(jax.lax.scan(step, state, drive)[1], 0, -2)


# What recurrent kernels start from; a Haar matrix is `orthojax.initializers.haar`.


def rotations(low: float, high: float, reflections: int = 0) -> Initializer:
    """Block-diagonal rotations of 2 x 2 by independent uniform angles in [low, high], times D of
    signs, of which the first `reflections` are -1.

    Matrices [..., n, n]; of an odd n the last entry is 1. Orthogonal of determinant
    (-1)^reflections: maps around a base never leave this component.

    Raises:
      ValueError: a shape that is not square, or more reflections than n.

    >>> import jax
    >>> w = rotations(0.0, 3.0, reflections=1)(jax.random.key(0), (5, 5))
    >>> round(float(jnp.linalg.det(w)), 4)
    -1.0
    """

    def init(key, shape: Sequence[int], dtype: Any = jnp.float32):
        *batch, n, columns = shape
        if n != columns or reflections > n:
            raise ValueError(
                f"`rotations` are square, with at most n reflections; got the shape {tuple(shape)} "
                f"and reflections={reflections}."
            )
        wide = wide_dtype(dtype)
        angles = jax.random.uniform(key, (*batch, n // 2), wide, low, high)
        angles = jnp.pad(angles, [(0, 0)] * len(batch) + [(0, n % 2)])
        cosines, sines = (jnp.repeat(f(angles), 2, axis=-1)[..., :n] for f in (jnp.cos, jnp.sin))
        i = jnp.arange(n)
        partner = jnp.minimum(i ^ 1, n - 1)
        w = jnp.zeros((*batch, n, n), wide).at[..., i, i].set(cosines)
        w = w.at[..., i, partner].add(jnp.where(i % 2 == 0, sines, -sines))
        return (w * jnp.where(i < reflections, -1, 1)).astype(dtype)

    return init


def henaff() -> Initializer:
    """`rotations` by angles in [-pi, pi]: for tasks of memory.

    Henaff, Szlam, LeCun 2016, arXiv:1602.06662, as the code of expRNN has it.
    """
    return rotations(-jnp.pi, jnp.pi)


def cayley_start(reflections: int = 0) -> Initializer:
    """`rotations` by angles u in [0, pi/2], with signs: slow ones.

    The Cayley transforms of blocks (0, s; -s, 0), s = sqrt((1 - cos u) / (1 + cos u)), times D:
    Helfrich, Willmott, Ye 2018, arXiv:1707.09520.
    """
    return rotations(0.0, jnp.pi / 2, reflections)


def phases(low: float = -jnp.pi, high: float = jnp.pi) -> Initializer:
    """Diagonal unitary kernels [n, 2n], exp(i t) for independent uniform t: the eigenvalues of
    `rotations`."""

    def init(key, shape: Sequence[int], dtype: Any = jnp.float32):
        n = _order(shape)
        angles = jax.random.uniform(key, (n,), wide_dtype(dtype), low, high)
        return jnp.concatenate([jnp.diag(jnp.cos(angles)), jnp.diag(jnp.sin(angles))], 1).astype(
            dtype
        )

    return init


def haar_unitary(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
    """Haar-distributed unitary kernels [n, 2n]: Q of a complex Gaussian matrix with diag(R) > 0
    (Mezzadri 2007, arXiv:math-ph/0609050)."""
    n = _order(shape)
    x, y = jax.random.normal(key, (2, n, n), wide_dtype(dtype))
    q, r = jnp.linalg.qr(jax.lax.complex(x, y))
    d = jnp.diagonal(r)
    u = q * (d / jnp.abs(d))
    return jnp.concatenate([u.real, u.imag], axis=-1).astype(dtype)


def _order(shape):
    if len(shape) != 2 or shape[1] != 2 * shape[0]:
        raise ValueError(
            "A unitary kernel is [n, 2n], its real part beside its imaginary part; got the shape "
            f"{tuple(shape)}."
        )
    return shape[0]
