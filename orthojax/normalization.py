"""Batch normalization as a function of one array: no parameters, no running statistics."""

from typing import Literal

import jax
import jax.numpy as jnp

from orthojax.linalg import at_least_float32


def batch_norm(
    x: jax.Array,
    *,
    mean: bool = True,
    scale: Literal["standard", "unit"] = "standard",
    epsilon: float = 0.0,
) -> jax.Array:
    """x / sqrt(s^2 + epsilon) for each column of x [..., n, d]: rows are samples, columns features.

    `scale="standard"`: s^2 is the mean of the squares of the column, which gets variance 1, as in
    networks. `scale="unit"`: s^2 is their sum, so that columns get length 1: BN(X) =
    diag(X X')^{-1/2} X of Meterez, Joudaki, Orabona, Immer, Raetsch, Daneshmand 2023,
    arXiv:2310.02012, eq. 4, where samples are columns. The theory is about `mean=False`. The two
    scales differ by sqrt(n): the entries of "unit" are about 1 / sqrt(n), where tanh or sin is the
    identity to 1 / n. A network of such activations trains as a linear one; use "standard" for it.

    Columns of zeros, and constant ones where the mean is taken, become zeros with derivative zero
    if `epsilon` is 0. Statistics in float32, or float64 for float64; the dtype of the result is
    that of x.

    Args:
      x: [..., n, d].
      mean: whether the mean of each column is subtracted first.
      scale: "standard" or "unit".
      epsilon: added to s^2. Flax has 1e-5; the theory has 0.

    >>> import jax.numpy as jnp
    >>> batch_norm(jnp.array([[3.0, 1.0], [-3.0, 3.0]]))
    Array([[ 1., -1.],
           [-1.,  1.]], dtype=float32)
    >>> batch_norm(jnp.array([[3.0, 0.0], [4.0, 0.0]]), mean=False, scale="unit")
    Array([[0.6, 0. ],
           [0.8, 0. ]], dtype=float32)
    """
    if scale not in ("standard", "unit"):
        raise ValueError(f"`scale` is 'standard' or 'unit', got {scale!r}.")
    if x.ndim < 2:
        raise ValueError(f"`x` has the shape [..., samples, features], got {x.shape}.")
    wide = at_least_float32(x)
    if mean:
        # From the first row instead of from zero: a constant column is zero exactly, not rounding
        # errors, which would be blown up to variance 1.
        wide = wide - jax.lax.stop_gradient(wide[..., :1, :])
        wide = wide - jnp.mean(wide, axis=-2, keepdims=True)
    reduce = jnp.mean if scale == "standard" else jnp.sum
    square = reduce(wide * wide, axis=-2, keepdims=True) + epsilon
    # Not by `square > 0`, which would turn NaN into zeros.
    zero = square == 0
    factor = jnp.where(zero, 0, jax.lax.rsqrt(jnp.where(zero, 1, square)))
    return (wide * factor).astype(x.dtype)
