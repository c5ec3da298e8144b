import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matrices_of import orthonormal

from orthojax import kernel_shaping
from orthojax.diagnostics import mean_correlation

Z, WEIGHTS = np.polynomial.hermite_e.hermegauss(100)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def resnet_101(local, x):
    """The largest value over subnetworks of a ResNet-101 with shortcuts of weight 0.6, for which
    the authors' unit tests (google-deepmind/dks) have the values below."""
    branch = local(local(local(x)))
    for blocks in (3, 4, 23, 3):
        for block in range(blocks):
            shortcut = x if block else local(x)
            x = 0.36 * shortcut + 0.64 * local(local(local(x)))
    return max(local(x), branch)


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        (jnp.tanh, (0.0746107, 0.5566915, 18.0026360, -0.5034379)),
        (jax.nn.softplus, (0.1876101, 0.4068806, 8.8786725, -0.9213466)),
        (jax.nn.gelu, (0.0703627, 0.2586837, 20.2495733, -0.1575833)),
    ],
)
def test_deep_kernel_shaping_has_the_published_values(activation, expected):
    shaping = kernel_shaping.deep_kernel_shaping(activation, resnet_101, zeta=1.2)
    np.testing.assert_allclose(shaping, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        (jnp.tanh, (0.0580205, 0.5218640, 22.3606626, -0.4796431)),
        (jax.nn.softplus, (0.1501149, 0.5374600, 10.5488019, -0.9964810)),
    ],
)
def test_tailored_has_the_published_values(activation, expected):
    shaping = kernel_shaping.tailored(activation, resnet_101, tau=0.2)
    np.testing.assert_allclose(shaping, expected, rtol=1e-6)


def test_tailored_leaky_relu_has_the_published_values():
    slope = kernel_shaping.tailored_leaky_relu_slope(resnet_101, eta=0.75)
    assert slope == pytest.approx(0.6291800, abs=1e-7)
    one = kernel_shaping.tailored_leaky_relu(resnet_101, eta=0.75)(jnp.float32(1))
    assert one == pytest.approx(1.1969965, abs=1e-6)


def maps(f):
    """Q'(1), C(0), C'(1) and C''(1) by Gauss-Hermite quadrature and differences of the definitions,
    where C'(1) = E f'^2 and C''(1) = E f''^2."""
    q = lambda q: WEIGHTS @ f(np.sqrt(q) * Z) ** 2
    h = 1e-4
    first = (f(Z + h) - f(Z - h)) / (2 * h)
    second = (f(Z + h) - 2 * f(Z) + f(Z - h)) / h**2
    q_slope = (q(1 + h) - q(1 - h)) / (2 * h)
    return q(1), q_slope, (WEIGHTS @ f(Z)) ** 2, WEIGHTS @ first**2, WEIGHTS @ second**2


@pytest.mark.parametrize("depth", [50, 200])
@pytest.mark.parametrize("activation", [jnp.tanh, jax.nn.softplus, jax.nn.gelu, jax.nn.silu])
def test_the_four_conditions_hold(x64, activation, depth):
    f = kernel_shaping.deep_kernel_shaping(activation, depth).apply(activation)
    q, q_slope, at_zero, slope, _ = maps(lambda x: np.asarray(f(x)))
    np.testing.assert_allclose((q, q_slope, at_zero), (1, 1, 0), atol=1e-6)
    assert slope**depth == pytest.approx(1.5, rel=1e-5)

    f = kernel_shaping.tailored(activation, depth).apply(activation)
    q, q_slope, _, slope, curvature = maps(lambda x: np.asarray(f(x)))
    np.testing.assert_allclose((q, q_slope, slope), 1, atol=1e-6)
    assert curvature * depth == pytest.approx(0.3, rel=1e-4)


def test_the_c_map_of_leaky_relu_is_its_expectation():
    # E f(u) f(v) with u = z1, v = c z1 + sqrt(1 - c^2) z2 on a fine grid: f has a kink.
    z = np.linspace(-8, 8, 1601)
    weights = np.exp(-(z**2) / 2) / np.exp(-(z**2) / 2).sum()
    f = lambda x: (2 / 1.09) ** 0.5 * np.maximum(x, 0.3 * x)
    cosines = np.array([-0.5, 0.0, 0.8])
    expected = [
        weights @ (f(z)[:, None] * f(c * z[:, None] + (1 - c * c) ** 0.5 * z)) @ weights
        for c in cosines
    ]
    np.testing.assert_allclose(kernel_shaping.leaky_relu_c_map(cosines, 0.3), expected, atol=1e-4)
    assert kernel_shaping.leaky_relu_c_map(1.0, 0.3) == pytest.approx(1)


@pytest.mark.parametrize(("depth", "slope"), [(20, 0.1814), (50, 0.4305), (1000, 0.8444)])
def test_slopes_of_plain_networks(depth, slope):
    assert kernel_shaping.tailored_leaky_relu_slope(depth) == pytest.approx(slope, abs=1e-4)


def test_inputs_stay_distinguishable_through_a_deep_network():
    width, depth = 256, 50
    kernels = orthonormal(0, (depth, width, width), np.float32)
    x = width**0.5 * np.eye(32, width, dtype=np.float32)

    def output(activation):
        step = lambda x, kernel: (activation(x @ kernel), None)
        return jax.jit(lambda x: jax.lax.scan(step, x, kernels)[0])(x)

    relu = mean_correlation(output(lambda x: 2**0.5 * jax.nn.relu(x)))
    leaky = output(kernel_shaping.tailored_leaky_relu(depth, eta=0.8))
    tanh = output(kernel_shaping.deep_kernel_shaping(jnp.tanh, depth).apply(jnp.tanh))
    assert relu > 0.98
    # At infinite width 0.8.
    assert mean_correlation(leaky) == pytest.approx(0.8, abs=0.05)
    assert mean_correlation(tanh) == pytest.approx(0, abs=0.05)
    assert np.mean(tanh**2) == pytest.approx(1, abs=0.1)


def test_an_activation_can_be_shaped_under_a_trace_and_keeps_the_dtype():
    @jax.jit
    def under_a_trace(x):
        return kernel_shaping.tailored(jnp.tanh, 200).apply(jnp.tanh)(x)

    x = np.linspace(-2, 2, 9, dtype=np.float32)
    outside = kernel_shaping.tailored(jnp.tanh, 200).apply(jnp.tanh)
    np.testing.assert_allclose(under_a_trace(x), outside(x), rtol=1e-4, atol=1e-5)
    half = jnp.asarray(x, jnp.bfloat16)
    for activation in (outside, kernel_shaping.tailored_leaky_relu(200)):
        assert activation(half).dtype == jnp.bfloat16
        # One rounding of the result, none within.
        np.testing.assert_allclose(
            activation(half).astype(jnp.float32), activation(x), rtol=0.005, atol=1e-6
        )


def test_what_cannot_be_reached_is_an_error():
    with pytest.raises(
        ValueError, match=r"orthogonal inputs leave even ReLU with the cosine 0\.87"
    ):
        kernel_shaping.tailored_leaky_relu(10)
    with pytest.raises(ValueError, match="`eta` is a cosine between 0 and 1"):
        kernel_shaping.tailored_leaky_relu(10, eta=1.0)
    with pytest.raises(ValueError, match="`activation` relu is not smooth"):
        kernel_shaping.tailored(jax.nn.relu, 10)
    with pytest.raises(
        ValueError, match="`activation` softplus found at this `depth`: try a smaller"
    ):
        kernel_shaping.deep_kernel_shaping(jax.nn.softplus, 1)
    with pytest.raises(ValueError, match="`zeta` is a slope above 1, got 1"):
        kernel_shaping.deep_kernel_shaping(jnp.tanh, 10, zeta=1.0)
    with pytest.raises(ValueError, match="`tau` is a curvature above 0, got 0"):
        kernel_shaping.tailored(jnp.tanh, 10, tau=0.0)
    with pytest.raises(ValueError, match="`depth` is the number of activations"):
        kernel_shaping.tailored(jnp.tanh, 0)
