"""Flax NNX blocks of two linear layers and one ReLU, residual or not, and stacks of them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from orthojax.nn.stack import Stack
from orthojax.persistent import Persistent

Initial = jax.Array | Callable[..., jax.Array]

# A factor 2 for the one ReLU of a block, as `orthojax.persistent.kaiming`.
_HE = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")
_LECUN = nnx.initializers.variance_scaling(1.0, "fan_in", "normal")


class TwoLayer(nnx.Module):
    """x -> relu(x B + b) A + c, plus x if `residual`, `inner` being B, b and `outer` A, c.

    With a `multiplier`, a trained scalar, the sum is multiplied by it before x is added. A residual
    block with `multiplier=0.0` is that of ReZero (Bachlechner et al. 2020, arXiv:2003.04887): the
    identity at first, whatever the depth.

    >>> from flax import nnx
    >>> import jax.numpy as jnp
    >>> rezero = TwoLayer(4, residual=True, multiplier=0.0, rngs=nnx.Rngs(0))
    >>> rezero(jnp.arange(4.0))
    Array([0., 1., 2., 3.], dtype=float32)
    """

    def __init__(
        self,
        width: int,
        hidden: int | None = None,
        *,
        residual: bool,
        multiplier: float | None = None,
        inner: Initial = _HE,
        inner_bias: Initial = nnx.initializers.zeros,
        outer: Initial = _LECUN,
        outer_bias: Initial = nnx.initializers.zeros,
        param_dtype: Any = jnp.float32,
        precision: jax.lax.PrecisionLike = None,
        rngs: nnx.Rngs,
    ):
        """
        Args:
          width: n, features of input and output.
          hidden: h, by default n.
          residual: type B instead of A.
          multiplier: its initial value, None for no such parameter.
          inner: array [n, h], or initializer.
          inner_bias: array [h], or initializer.
          outer: array [h, n], or initializer.
          outer_bias: array [n], or initializer.
          param_dtype: of all parameters.
          precision: of the products.
          rngs: stream `params`.

        Raises:
          ValueError: an array of another shape.
        """
        hidden = width if hidden is None else hidden
        options = {"param_dtype": param_dtype, "precision": precision, "rngs": rngs}
        self.inner = nnx.Linear(
            width,
            hidden,
            kernel_init=_initializer("inner", inner),
            bias_init=_initializer("inner_bias", inner_bias),
            **options,
        )
        self.outer = nnx.Linear(
            hidden,
            width,
            kernel_init=_initializer("outer", outer),
            bias_init=_initializer("outer_bias", outer_bias),
            **options,
        )
        self.residual = residual
        self.multiplier = (
            None if multiplier is None else nnx.Param(jnp.asarray(multiplier, param_dtype))
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.outer(nnx.relu(self.inner(x)))
        if self.multiplier is not None:
            y = self.multiplier[...] * y
        return x + y if self.residual else y


def _initializer(name, initial):
    if callable(initial):
        return initial

    def init(key, shape, dtype):
        del key
        if initial.shape != tuple(shape):
            raise ValueError(f"`{name}` needs the shape {tuple(shape)}, got {initial.shape}.")
        return initial.astype(dtype)

    return init


def persistent_stack(
    blocks: Persistent,
    *,
    residual: bool,
    multiplier: float | None = None,
    precision: jax.lax.PrecisionLike = None,
    **options,
) -> Stack:
    """A `Stack` of `TwoLayer` with the weights `blocks`, e.g. of `orthojax.persistent.shared`.

    Parameters: `layers/inner/kernel` [L, n, h], `layers/inner/bias`, `layers/outer/kernel`,
    `layers/outer/bias`.

    Args:
      blocks: initial weights.
      residual: the type they are made for, as given to the function that made them; either for the
        baselines.
      multiplier: as of `TwoLayer`; ReZero is `kaiming` with 0.0.
      precision: of the products; "highest" on an accelerator for a subspace kept to float32.
      **options: of `Stack`: `remat`, `unroll`.

    >>> import jax
    >>> from orthojax import persistent
    >>> blocks = persistent.projection(jax.random.key(0), 50, 8, k=3)
    >>> persistent_stack(blocks, residual=True).layers.inner.kernel.shape
    (50, 8, 3)
    """
    depth, width, hidden = blocks.inner.shape

    def make(rngs, inner, inner_bias, outer, outer_bias):
        return TwoLayer(
            width,
            hidden,
            residual=residual,
            multiplier=multiplier,
            inner=inner,
            inner_bias=inner_bias,
            outer=outer,
            outer_bias=outer_bias,
            param_dtype=blocks.inner.dtype,
            precision=precision,
            rngs=rngs,
        )

    return Stack(make, depth, *blocks[:4], rngs=nnx.Rngs(0), **options)  # Nothing random is left.


class Fixup(nnx.Module):
    """x -> x + a (relu((x + b_0) B + b_1) + b_2) A + b_3, the residual block of Fixup with the
    trained scalars `multiplier` a and `biases` b [4].

    B (`inner/kernel`) is Gaussian with variance 2/(L n) for L = `depth` blocks, A
    (`outer/kernel`) and the biases are 0, a is 1: Zhang, Dauphin, Ma 2019, arXiv:1901.09321, who
    scale the He standard deviation by L^(-1/(2m - 2)), for m = 2 layers a block L^(-1/2), and begin
    with a head of zeros.
    """

    def __init__(
        self,
        width: int,
        hidden: int | None = None,
        *,
        depth: int,
        param_dtype: Any = jnp.float32,
        precision: jax.lax.PrecisionLike = None,
        rngs: nnx.Rngs,
    ):
        hidden = width if hidden is None else hidden
        options = {
            "use_bias": False,
            "param_dtype": param_dtype,
            "precision": precision,
            "rngs": rngs,
        }
        # Variance 2 / (L n): standard deviation L^(-1/2) times that of He.
        inner = nnx.initializers.variance_scaling(2 / depth, "fan_in", "normal")
        self.inner = nnx.Linear(width, hidden, kernel_init=inner, **options)
        self.outer = nnx.Linear(hidden, width, kernel_init=nnx.initializers.zeros, **options)
        self.multiplier = nnx.Param(jnp.ones((), param_dtype))
        self.biases = nnx.Param(jnp.zeros(4, param_dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        b = self.biases[...]
        hidden = nnx.relu(self.inner(x + b[0]) + b[1]) + b[2]
        return x + self.multiplier[...] * self.outer(hidden) + b[3]
