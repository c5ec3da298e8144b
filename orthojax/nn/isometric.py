"""Flax NNX layers whose Jacobian is orthogonal as long as their kernels are."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from orthojax import isometric
from orthojax.initializers import Initializer, haar


class Fold(nnx.Module):
    """x -> x - 2 phi(x K + b) K' (`orthojax.isometric.fold`), K `kernel` [n, h], b `bias` [h].

    An optimizer that moves K freely leaves the isometries; one on the Stiefel manifold stays:

    >>> import jax, jax.numpy as jnp, optax, orthojax
    >>> from flax import nnx
    >>> from orthojax.nn.stack import Stack
    >>> model = Stack(lambda rngs: Fold(8, 4, rngs=rngs), 50, rngs=nnx.Rngs(0))
    >>> rules = [(".*kernel", orthojax.MatrixAxes(-2, -1)), (".*", "free")]
    >>> tx = orthojax.orthogonal(optax.adam(1e-3), rules=rules)
    >>> model.layers.kernel.shape, model(jnp.ones((2, 8))).shape
    ((50, 8, 4), (2, 8))
    """

    def __init__(
        self,
        width: int,
        folds: int | None = None,
        *,
        activation: isometric.Activation = jax.nn.relu,
        slopes: Sequence[float] = (1.0, 0.0),
        kernel_init: Initializer = haar,
        bias_init: Callable[..., jax.Array] = nnx.initializers.zeros,
        param_dtype: Any = jnp.float32,
        precision: jax.lax.PrecisionLike = None,
        rngs: nnx.Rngs,
    ):
        """
        Args:
          width: n, features of input and output.
          folds: h, at most n, the default. With few of them different inputs stay apart for longer.
          activation: piecewise affine with two slopes.
          slopes: these two.
          kernel_init: of matrices with orthonormal columns.
          bias_init: of the bias.
          param_dtype: of both parameters.
          precision: of the products; "highest" for an orthogonal Jacobian on an accelerator.
          rngs: stream `params`.

        Raises:
          ValueError: `folds` is not in 1 to n, or equal slopes.
        """
        folds = width if folds is None else folds
        if not 1 <= folds <= width:
            raise ValueError(f"`folds` is between 1 and width={width}, got {folds}.")
        isometric.isometric_activation(activation, slopes)  # For its error.
        self.kernel = nnx.Param(kernel_init(rngs.params(), (width, folds), param_dtype))
        self.bias = nnx.Param(bias_init(rngs.params(), (folds,), param_dtype))
        self.activation, self.slopes, self.precision = activation, tuple(slopes), precision

    def __call__(self, x: jax.Array) -> jax.Array:
        return isometric.fold(
            x, self.kernel[...], self.bias[...], self.activation, self.slopes, self.precision
        )


class IsometricDense(nnx.Module):
    """x -> psi(x K + b) Q (`orthojax.isometric.isometric_dense`), K `kernel` [n, n], b `bias` [n],
    Q `out_kernel` [n, n].

    Arguments as for `Fold`; `kernel_init` serves both kernels.
    """

    def __init__(
        self,
        width: int,
        *,
        activation: isometric.Activation = jax.nn.relu,
        slopes: Sequence[float] = (1.0, 0.0),
        kernel_init: Initializer = haar,
        bias_init: Callable[..., jax.Array] = nnx.initializers.zeros,
        param_dtype: Any = jnp.float32,
        precision: jax.lax.PrecisionLike = None,
        rngs: nnx.Rngs,
    ):
        isometric.isometric_activation(activation, slopes)  # For its error.
        self.kernel = nnx.Param(kernel_init(rngs.params(), (width, width), param_dtype))
        self.bias = nnx.Param(bias_init(rngs.params(), (width,), param_dtype))
        self.out_kernel = nnx.Param(kernel_init(rngs.params(), (width, width), param_dtype))
        self.activation, self.slopes, self.precision = activation, tuple(slopes), precision

    def __call__(self, x: jax.Array) -> jax.Array:
        return isometric.isometric_dense(
            x,
            self.kernel[...],
            self.bias[...],
            self.out_kernel[...],
            self.activation,
            self.slopes,
            self.precision,
        )
