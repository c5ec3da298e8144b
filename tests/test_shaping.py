import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthojax import shaping


def test_gains_fall_as_a_power_of_the_layer():
    np.testing.assert_allclose(shaping.gains(1000, 0.4), np.arange(1, 1001.0) ** -0.4, rtol=1e-6)
    np.testing.assert_array_equal(shaping.gains(3, 0.0), np.ones(3, np.float32))
    traced = jax.jit(lambda k: shaping.gains(3, k))(1.0)
    np.testing.assert_allclose(traced, [1, 1 / 2, 1 / 3], rtol=1e-6)
    with pytest.raises(ValueError, match="`depth` is the number of layers, at least 1, got 0"):
        shaping.gains(0, 0.4)


@pytest.mark.parametrize("activation", [jnp.sin, jax.nn.gelu, jax.nn.softplus, jax.nn.selu])
def test_a_centred_activation_is_the_identity_to_first_order(x64, activation):
    function = shaping.centred(activation)
    assert function(np.float64(0)) == pytest.approx(0, abs=1e-15)
    h = 1e-6  # SELU has two slopes at 0; JAX takes that of negative numbers.
    assert -function(np.float64(-h)) / h == pytest.approx(1, abs=2e-6)


def test_an_activation_flat_at_zero_cannot_be_centred():
    with pytest.raises(ValueError, match="`activation` relu has the value 0 and the slope 0"):
        shaping.centred(jax.nn.relu)


def test_shaped_is_the_centred_activation_of_gain_times_x():
    x = np.linspace(-2, 2, 5, dtype=np.float32)

    @jax.jit  # Built under a trace, as in a model's constructor.
    def apply(x, gain):
        return shaping.shaped(jax.nn.sigmoid)(x, gain)

    # sigmoid(x) = (1 + tanh(x / 2)) / 2.
    np.testing.assert_allclose(apply(x, 0.3), 2 * np.tanh(0.15 * x), rtol=1e-5, atol=1e-6)
    half = apply(jnp.asarray(x, jnp.bfloat16), jnp.float32(0.3))
    assert half.dtype == jnp.bfloat16
