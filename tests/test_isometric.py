"""Piecewise rigid layers: Jacobians by JAX's derivative, orthogonality and identities by NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matrices_of import defect, gaussian, orthonormal

from orthojax import initializers, isometric

RELU = (jax.nn.relu, (1, 0))
LEAKY = (lambda s: jax.nn.leaky_relu(s, 0.2), (1, 0.2))
CLIP = (lambda s: jnp.clip(s, 0, 1), (1, 0))
REVERSED = (lambda s: jnp.minimum(3 * s, -s), (3, -1))


@pytest.mark.parametrize(("activation", "slopes"), [RELU, LEAKY, CLIP, REVERSED])
def test_an_isometric_activation_has_slope_one_of_the_sign_of_the_branch(x64, activation, slopes):
    s = np.linspace(-2.97, 2.98, 50)
    psi = isometric.isometric_activation(activation, slopes)
    step = 1e-3  # Within one piece for all of s.
    slope = (psi(s + step) - psi(s - step)) / (2 * step)
    old = (activation(s + step) - activation(s - step)) / (2 * step)
    np.testing.assert_allclose(slope, np.where(np.isclose(old, slopes[0]), -1, 1), atol=1e-10)
    if activation in (RELU[0], LEAKY[0]):
        np.testing.assert_allclose(psi(s), -np.abs(s), atol=1e-14)


@pytest.mark.parametrize("folds", [1, 3, 8])
@pytest.mark.parametrize(("activation", "slopes"), [RELU, LEAKY, CLIP])
def test_a_fold_reflects_along_the_active_directions(x64, folds, activation, slopes):
    kernel, bias, x = orthonormal(0, (8, folds)), gaussian(1, (folds,)), gaussian(2, (8,))
    f = lambda x: isometric.fold(x, kernel, bias, activation, slopes)
    z = x @ kernel + bias
    active = np.isclose(jax.vmap(jax.grad(activation))(z), slopes[0])
    expected = np.eye(8)
    for direction in kernel.T[active]:
        expected = expected @ (np.eye(8) - 2 * np.outer(direction, direction))
    np.testing.assert_allclose(jax.jit(jax.jacfwd(f))(x), expected, atol=1e-14)


def test_the_layers_are_their_formulas(x64):
    k, q = orthonormal(0, (6, 6)), orthonormal(1, (6, 6))
    b, x = gaussian(2, (1, 6)), gaussian(3, (5, 6))
    z = x @ k + b
    folded = isometric.fold(x, k, b)
    np.testing.assert_allclose(folded, x - 2 * np.maximum(z, 0) @ k.T, atol=1e-14)
    np.testing.assert_allclose(isometric.isometric_dense(x, k, b, q), -np.abs(z) @ q, atol=1e-14)
    shifted = isometric.isometric_dense(x, k, b, k.T) - b @ k.T
    np.testing.assert_allclose(folded, shifted, atol=1e-14)


def test_max_min_sorts_pairs_and_is_a_fold(x64):
    x = gaussian(0, (5, 8))
    pairs = -np.sort(-x.reshape(5, 4, 2), axis=-1)
    np.testing.assert_array_equal(isometric.max_min(x), pairs.reshape(5, 8))
    kernel = np.zeros((8, 4))
    kernel[1::2], kernel[::2] = np.eye(4) / 2**0.5, -np.eye(4) / 2**0.5
    folded = isometric.fold(x, kernel, 0.0)
    np.testing.assert_allclose(isometric.max_min(x), folded, atol=1e-14)
    at_ties = jax.jacfwd(isometric.max_min)(np.array([1.0, 1.0, 0.0, 0.0]))
    np.testing.assert_array_equal(at_ties, np.eye(4))


@pytest.mark.parametrize(
    ("dtype", "width", "folds", "limit"),
    [(np.float32, 100, 100, 5e-6), (np.float64, 32, 32, 1e-12), (np.float64, 32, 4, 1e-12)],
)
def test_two_hundred_folds_have_an_orthogonal_jacobian(dtype, width, folds, limit):
    def f(x, kernels, biases):
        return jax.lax.scan(lambda x, p: (isometric.fold(x, *p), None), x, (kernels, biases))[0]

    with jax.enable_x64(dtype == np.float64):
        kernels = jax.jit(lambda key: initializers.haar(key, (200, width, folds), dtype))
        biases, x = gaussian(1, (200, folds), dtype), gaussian(2, (width,), dtype)
        jacobian = jax.jit(jax.jacfwd(f))(x, kernels(jax.random.key(0)), biases)
    assert jacobian.dtype == dtype
    assert defect(jacobian) < limit


def test_two_hundred_isometric_dense_layers_have_an_orthogonal_jacobian(x64):
    kernels = orthonormal(0, (2, 200, 16, 16))
    biases = gaussian(1, (200, 16))
    layer = functools.partial(isometric.isometric_dense, activation=LEAKY[0], slopes=LEAKY[1])

    def f(x):
        step = lambda x, p: (layer(x, p[0], p[1], p[2]), None)
        return jax.lax.scan(step, x, (kernels[0], biases, kernels[1]))[0]

    assert defect(jax.jit(jax.jacfwd(f))(gaussian(2, (16,)))) < 1e-12


def test_impossible_arguments_are_errors_that_name_them():
    with pytest.raises(ValueError, match=r"`slopes`.*got 1 twice"):
        isometric.isometric_activation(lambda s: s, (1, 1))
    with pytest.raises(ValueError, match=r"`kernel`.*\(2, 3\)"):
        isometric.fold(jnp.ones(2), jnp.ones((2, 3)), jnp.zeros(3))
    with pytest.raises(ValueError, match=r"`max_min`.*\(2, 3\)"):
        isometric.max_min(jnp.ones((2, 3)))
