"""Activations that are the more linear the deeper their layer: x -> f(a_l x), a_l = (l + 1)^-k.

With batch normalization and orthogonal weights a linear network has gradients of one size at any
depth; a nonlinearity makes them explode with depth, unless its gains a_l fall:
x_{l+1} = f(a_l BN(x_l W_l)), Meterez, Joudaki, Orabona, Immer, Raetsch, Daneshmand 2023,
arXiv:2310.02012, eq. 11, with k = 0.4 for tanh and sin. The functions in `kernel_shaping` do
without batch normalization.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


def gains(depth: int, exponent: float | jax.Array, dtype=jnp.float32) -> jax.Array:
    """(l + 1)^-exponent for l = 0, ..., depth - 1: [depth].

    `exponent` may be traced: a sweep over it compiles once.

    >>> gains(4, 0.5)
    Array([1.        , 0.70710677, 0.57735026, 0.5       ], dtype=float32)
    """
    if depth < 1:
        raise ValueError(f"`depth` is the number of layers, at least 1, got {depth}.")
    return jnp.arange(1, depth + 1, dtype=dtype) ** -jnp.asarray(exponent, dtype)


def centred(activation: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    """x -> (f(x) - f(0)) / f'(0): zero at 0 with slope 1 there, f of each entry of any array.

    Needs f'(0) != 0, which ReLU has not: JAX takes f'(0) = 0 there.

    >>> import jax
    >>> sigmoid = centred(jax.nn.sigmoid)
    >>> float(sigmoid(0.0)), float(jax.grad(sigmoid)(0.0))
    (0.0, 1.0)
    """
    # Values even where a model is built under `jit` or `vmap`, in float64 for networks in float64.
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        offset, slope = map(float, jax.jvp(activation, (np.float64(0),), (np.float64(1),)))
    if slope == 0 or not np.isfinite([offset, slope]).all():
        name = getattr(activation, "__name__", activation)
        raise ValueError(
            f"`activation` {name} has the value {offset:g} and the slope {slope:g} at 0; it can be "
            "centred only with a finite value and a slope other than 0: try tanh, sin or gelu."
        )
    return lambda x: (activation(x) - offset) / slope


def shaped(activation: Callable[[jax.Array], jax.Array]) -> Callable[..., jax.Array]:
    """(x, gain) -> `centred(activation)`(gain x): the layer's activation, its dtype that of x.

    Not divided by the gain, as in arXiv:2310.02012: batch normalization of the next layer does it.

    >>> import jax.numpy as jnp
    >>> float(shaped(jnp.tanh)(jnp.array(1.0), 0.0))
    0.0
    """
    function = centred(activation)
    return lambda x, gain: function(jnp.asarray(gain, x.dtype) * x)
