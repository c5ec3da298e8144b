"""Initializers with the signature of `jax.nn.initializers`, (key, shape, dtype) -> array: what it
lacks.

There already: `orthogonal`, on the last axis against all others, and `delta_orthogonal` for
3x3-like kernels whose output is not narrower than its input. Here: either determinant, any
`MatrixAxes`, every width, and starts near the identity.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from orthojax.linalg import qr_positive
from orthojax.matrices import MatrixAxes, default_axes

Initializer = Callable[..., jax.Array]


def _haar(key, shape, dtype):
    return qr_positive(jax.random.normal(key, shape, jnp.promote_types(dtype, jnp.float32)))


def orthogonal(
    scale: float = 1.0, determinant: int | None = None, axes: MatrixAxes | None = None
) -> Initializer:
    """Haar-distributed orthonormal matrices: uniform on the orthogonal group, or on the Stiefel
    manifold if not square.

    Q of a Gaussian matrix with diag(R) > 0 (Mezzadri 2007, arXiv:math-ph/0609050). Semi-orthogonal
    where the view is not
    square: W'W = scale^2 I for the tall view, whichever of input and output is longer.

    Args:
      scale: factor of the orthonormal matrix.
      determinant: +1 or -1 for square views, uniform on that component; None for both.
      axes: a `MatrixAxes`; by default that of a Flax kernel of this rank.

    >>> import jax, jax.numpy as jnp
    >>> w = orthogonal(determinant=-1)(jax.random.key(0), (5, 5))
    >>> round(float(jnp.linalg.det(w)), 4)
    -1.0
    """
    if determinant not in (None, 1, -1):
        raise ValueError(f"`determinant` is 1, -1 or None, got {determinant}.")

    def init(key, shape: Sequence[int], dtype: Any = jnp.float32):
        like = jax.ShapeDtypeStruct(tuple(shape), dtype)
        view = default_axes("kernel", like) if axes is None else axes
        matrices = jax.eval_shape(view.view, like)
        w = _haar(key, matrices.shape, dtype)
        if determinant is not None:
            n, p = w.shape[-2:]
            if n != p:
                raise ValueError(
                    f"`determinant` needs a square view; shape {tuple(shape)} has {n} x {p}."
                )
            # A flip of one column maps one component on the other and keeps the distribution
            # uniform.
            flip = jnp.where(jnp.linalg.det(w) * determinant < 0, -1, 1).astype(w.dtype)
            w = w.at[..., 0].multiply(flip[..., None])
        return (scale * view.unview(w, shape)).astype(dtype)

    return init


def delta_orthogonal(scale: float = 1.0) -> Initializer:
    """Convolution kernels [*window, in, out] that are a Haar matrix at the centre and zero
    elsewhere.

    An isometry of the input (out >= in) or onto the output (out < in) for stride 1 and circular or
    zero padding: Xiao, Bahri, Sohl-Dickstein, Schoenholz, Pennington 2018, arXiv:1806.05393,
    algorithm 1. Windows of odd length have a centre; even ones use the tap right of it.
    """

    def init(key, shape: Sequence[int], dtype: Any = jnp.float32):
        if len(shape) < 3:
            raise ValueError(
                f"A convolution kernel has the shape (*window, in, out), got {tuple(shape)}."
            )
        matrix = orthogonal(scale)(key, shape[-2:], dtype)
        centre = tuple(w // 2 for w in shape[:-2])
        return jnp.zeros(shape, dtype).at[centre].set(matrix)

    return init


def near_identity(scale: float = 0.0) -> Initializer:
    """exp(A) restricted to the shape [..., n, p]: the identity (or its first columns or rows)
    turned by Gaussian skew A.

    A has entries of standard deviation scale / sqrt(n), a spectral norm of about 2 scale for large
    n; `scale=0` is the identity.
    """
    from orthojax.maps.exponential import expm

    def init(key, shape: Sequence[int], dtype: Any = jnp.float32):
        n, p = sorted(shape[-2:], reverse=True)
        if not scale:
            return jnp.broadcast_to(jnp.eye(*shape[-2:], dtype=dtype), shape)
        wide = jnp.promote_types(dtype, jnp.float32)
        x = jnp.triu(jax.random.normal(key, (*shape[:-2], n, n), wide), 1)
        w = expm(scale / n**0.5 * (x - x.mT))[..., :p]
        return (w if shape[-2] >= shape[-1] else w.mT).astype(dtype)

    return init
