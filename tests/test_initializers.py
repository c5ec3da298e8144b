import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthojax import MatrixAxes, initializers, orthogonality_error


def test_both_determinants_come_at_will():
    keys = jax.random.split(jax.random.key(0), 20)
    for determinant in (1, -1):
        init = initializers.orthogonal(determinant=determinant)
        for key in keys:
            w = init(key, (3, 3))
            assert np.linalg.det(w) == pytest.approx(determinant, abs=1e-5)
            assert orthogonality_error(w) < 1e-6
    free = [np.linalg.det(initializers.orthogonal()(key, (3, 3))) for key in keys]
    assert min(free) < 0 < max(free)


@pytest.mark.parametrize("determinant", [1, -1, None])
def test_the_distribution_is_haar(determinant):
    # Moments of one entry of a Haar matrix: E w^2 = 1/n; on O(n) also E w^4 = 3 / (n (n + 2)).
    n, samples = 4, 4000
    init = initializers.orthogonal(determinant=determinant)
    keys = jax.random.split(jax.random.key(1), samples)
    w = np.asarray(jax.vmap(lambda key: init(key, (n, n)))(keys))
    np.testing.assert_allclose(w.mean(0), 0, atol=5 * (1 / n / samples) ** 0.5)
    np.testing.assert_allclose((w**2).mean(0), 1 / n, atol=0.025)
    np.testing.assert_allclose((w**4).mean(0), 3 / (n * (n + 2)), atol=0.025)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((5, 3), None), ((3, 5), None), ((3, 3, 2, 4), None), ((2, 4, 4), MatrixAxes(-2, -1))],
)
def test_kernels_of_any_shape_are_semi_orthogonal_with_their_scale(shape, axes):
    w = initializers.orthogonal(scale=2.0, axes=axes)(jax.random.key(0), shape)
    assert w.shape == shape
    assert orthogonality_error(w / 2, axes) < 1e-6


def test_a_half_precision_kernel_is_the_rounded_float32_one():
    key, init = jax.random.key(0), initializers.orthogonal()
    half = init(key, (4, 4), jnp.bfloat16)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_array_equal(half, init(key, (4, 4)).astype(jnp.bfloat16))


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 5), (4, 4), (5, 3)])
def test_a_delta_orthogonal_convolution_is_an_isometry(inputs, outputs):
    kernel = initializers.delta_orthogonal()(jax.random.key(0), (3, 3, inputs, outputs))

    def convolve(x):
        return jax.lax.conv_general_dilated(
            x[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )[0]

    jacobian = jax.jacobian(convolve)(jnp.zeros((4, 4, inputs)))
    s = np.linalg.svd(jacobian.reshape(16 * outputs, 16 * inputs), compute_uv=False)
    np.testing.assert_allclose(s[: 16 * min(inputs, outputs)], 1, atol=1e-5)


def test_near_identity_is_the_identity_and_a_small_turn_from_it():
    key = jax.random.key(0)
    for shape in [(64, 64), (64, 32), (32, 64)]:
        w = initializers.near_identity(0.1)(key, shape)
        assert orthogonality_error(w) < 1e-6
        distance = np.linalg.norm(w - np.eye(*shape), 2)
        assert 0.05 < distance < 0.3


def test_impossible_arguments_are_errors_that_name_them():
    with pytest.raises(ValueError, match=r"`determinant`.*got 2"):
        initializers.orthogonal(determinant=2)
    with pytest.raises(ValueError, match=r"`determinant`.*\(4, 3\)"):
        initializers.orthogonal(determinant=1)(jax.random.key(0), (4, 3))
    with pytest.raises(ValueError, match=r"\(\*window, in, out\)"):
        initializers.delta_orthogonal()(jax.random.key(0), (4, 3))
