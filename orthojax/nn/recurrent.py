"""Flax NNX recurrent layers with an orthogonal or unitary kernel."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from orthojax import recurrent
from orthojax.initializers import Initializer
from orthojax.maps.unitary import real_form


def _small(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -0.01, 0.01)


class OrthogonalCell(nnx.RNNCellBase):
    """h_t = phi(x_t V + h_{t-1} W, b): W `kernel` [n, n], V `input_kernel` [features, n], b `bias`
    [n].

    W starts orthogonal, and the optimizer keeps it so. Three published networks are this cell with
    three optimizers:

    >>> import jax.numpy as jnp, optax, orthojax
    >>> from flax import nnx
    >>> rules = [("cell/kernel", "orthogonal"), (".*", "free")]
    >>> adam, slow = optax.adam(1e-3), optax.adam(1e-4)
    >>> orthogonal = orthojax.orthogonal

    expRNN (Lezcano-Casado and Martinez-Rubio 2019, arXiv:1901.08428), the exponential from a fixed
    base:

    >>> exprnn = orthogonal(slow, map="exponential", rules=rules, rest=adam)

    dtriv (Lezcano-Casado 2019, arXiv:1909.09501), which changes the base every K steps:

    >>> dtriv = orthogonal(slow, map="exponential", rules=rules, rest=adam, rebase_every=100)

    scoRNN (Helfrich, Willmott, Ye 2018, arXiv:1707.09520), Cayley with signs, which the base has
    from the start:

    >>> signs = recurrent.cayley_start(reflections=4)
    >>> layer = Recurrent(OrthogonalCell(2, 8, kernel_init=signs, rngs=nnx.Rngs(0)))
    >>> scornn = orthogonal(slow, map="cayley", rules=rules, rest=adam)
    >>> layer(jnp.ones((3, 50, 2))).shape
    (3, 50, 8)

    It is a cell of `flax.nnx.RNN` too; `Recurrent` multiplies all inputs by V at once.
    """

    def __init__(
        self,
        features: int,
        width: int,
        *,
        activation: recurrent.Activation = recurrent.mod_relu,
        kernel_init: Initializer | None = None,
        input_init: Initializer | None = None,
        bias_init: Callable[..., jax.Array] = _small,
        param_dtype: Any = jnp.float32,
        precision: jax.lax.PrecisionLike = None,
        rngs: nnx.Rngs,
    ):
        """
        Args:
          features: of an input x_t.
          width: n, features of a state h_t.
          activation: phi, (pre-activation, bias) -> state.
          kernel_init: of W; `recurrent.henaff()` by default. Others: `recurrent.cayley_start()`,
            `initializers.haar`.
          input_init: of V; He's by default.
          bias_init: of b; uniform in [-0.01, 0.01] by default.
          param_dtype: of the parameters.
          precision: of the products.
          rngs: stream `params`.
        """
        self._fill(
            features,
            (width, width),
            kernel_init or recurrent.henaff(),
            input_init,
            bias_init,
            param_dtype,
            rngs,
        )
        self.activation, self.precision = activation, precision

    def _fill(self, features, shape, kernel_init, input_init, bias_init, dtype, rngs):
        input_init = input_init or nnx.initializers.he_normal()
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, dtype))
        self.input_kernel = nnx.Param(input_init(rngs.params(), (features, shape[1]), dtype))
        self.bias = nnx.Param(bias_init(rngs.params(), (shape[0],), dtype))

    def matrix(self) -> jax.Array:
        """What states [..., m] are multiplied by, [m, m]."""
        return self.kernel[...]

    def drive(self, x: jax.Array) -> jax.Array:
        """x V [..., m] of inputs [..., features], of one time or of all."""
        return jnp.matmul(x, self.input_kernel[...], precision=self.precision)

    def __call__(self, carry: jax.Array, inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        turned = jnp.matmul(carry, self.matrix(), precision=self.precision)
        h = self.activation(self.drive(inputs) + turned, self.bias[...])
        return h, h

    def initialize_carry(self, input_shape, rngs=None, carry_init=None) -> jax.Array:
        """h_0 = 0, [..., m] for inputs [..., features]."""
        del rngs, carry_init
        return jnp.zeros((*input_shape[:-1], self.input_kernel.shape[1]), self.kernel.dtype)

    @property
    def num_feature_axes(self) -> int:
        return 1


class UnitaryCell(OrthogonalCell):
    """`OrthogonalCell` in complex numbers, as pairs of real ones.

    `kernel` [n, 2n] holds X beside Y of a unitary X + iY; `input_kernel` [features, 2n]; states
    [..., 2n] have n real parts, then n imaginary ones; `bias` [n] is that of the modulus. Arjovsky,
    Shah, Bengio 2016, arXiv:1511.06464, with the whole unitary group as in Wisdom et al. 2016,
    arXiv:1611.00035:

    >>> import jax.numpy as jnp, optax, orthojax
    >>> from flax import nnx
    >>> layer = Recurrent(UnitaryCell(2, 8, rngs=nnx.Rngs(0)))
    >>> rules = [("cell/kernel", "orthogonal"), (".*", "free")]
    >>> tx = orthojax.orthogonal(optax.adam(1e-3), map=orthojax.unitary(), rules=rules)
    >>> layer(jnp.ones((3, 50, 2))).shape
    (3, 50, 16)
    """

    def __init__(
        self,
        features: int,
        width: int,
        *,
        activation: recurrent.Activation = recurrent.complex_mod_relu,
        kernel_init: Initializer | None = None,
        input_init: Initializer | None = None,
        bias_init: Callable[..., jax.Array] = _small,
        param_dtype: Any = jnp.float32,
        precision: jax.lax.PrecisionLike = None,
        rngs: nnx.Rngs,
    ):
        """As of `OrthogonalCell`; `kernel_init` is `recurrent.phases()` by default, another is
        `recurrent.haar_unitary`."""
        self._fill(
            features,
            (width, 2 * width),
            kernel_init or recurrent.phases(),
            input_init,
            bias_init,
            param_dtype,
            rngs,
        )
        self.activation, self.precision = activation, precision

    def matrix(self) -> jax.Array:
        """The real form [2n, 2n] of the kernel."""
        return real_form(self.kernel[...])


class Recurrent(nnx.Module):
    """All states [..., T, m] of an `OrthogonalCell` or a `UnitaryCell` on inputs
    [..., T, features], by `recurrent.unroll`.

    What a state is multiplied by is computed before the first time step; the steps share it.
    """

    def __init__(self, cell: OrthogonalCell):
        self.cell = cell

    def __call__(self, x: jax.Array, state: jax.Array | None = None) -> jax.Array:
        """`state` [..., m] is that before the first input, by default 0."""
        cell = self.cell
        return recurrent.unroll(
            cell.matrix(),
            cell.bias[...],
            cell.drive(x),
            state,
            cell.activation,
            cell.precision,
        )
