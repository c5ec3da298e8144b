"""Batch normalization against Flax's and against NumPy, and statistics of whole data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from matrices_of import gaussian

from orthojax.nn.normalization import BatchNorm, population_statistics
from orthojax.nn.stack import Stack


class Layer(nnx.Module):
    """Normalized, with dropout where both are on, and then an activation."""

    def __init__(self, width, norm, rngs):
        self.linear = nnx.Linear(width, width, rngs=rngs)
        self.norm = norm(width, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return jnp.tanh(self.dropout(self.norm(self.linear(x))))


def states(norm, x, y):
    """Outputs in training and in evaluation, gradients, and the state after two batches."""

    @nnx.jit
    def run(norm):
        grad = jax.grad(lambda x: jnp.sum(nnx.clone(norm)(x) ** 3))(x)
        outputs = norm(x), norm(y)
        norm.eval()
        return grad, outputs, norm(x), nnx.state(norm)

    return run(norm)


@pytest.mark.parametrize(("shape", "affine"), [((6, 3), False), ((2, 4, 5, 3), True)])
def test_it_is_batch_normalization_of_flax(shape, affine):
    ours = BatchNorm(3, affine=affine)
    flax = nnx.BatchNorm(3, momentum=0.9, use_bias=affine, use_scale=affine, rngs=nnx.Rngs(0))
    for norm in (ours, flax):
        if affine:
            norm.scale[...], norm.bias[...] = gaussian(0, (2, 3), np.float32)
    x = 3 * gaussian(1, shape, np.float32) + 1
    y = gaussian(2, shape, np.float32)
    expected = jax.tree.leaves(states(flax, x, y))
    for value, wanted in zip(jax.tree.leaves(states(ours, x, y)), expected, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-5)


def test_without_the_mean_it_divides_by_the_root_mean_square():
    norm = BatchNorm(3, use_mean=False, affine=False, momentum=0.75, epsilon=1e-3)
    x = gaussian(0, (6, 3), np.float32) + 2
    square = np.mean(x**2, axis=0)
    np.testing.assert_allclose(norm(x), x / np.sqrt(square + 1e-3), rtol=1e-5)
    average = 0.75 + 0.25 * square
    np.testing.assert_allclose(norm.var[...], average, rtol=1e-5)
    norm.eval()
    np.testing.assert_allclose(norm(x), x / np.sqrt(average + 1e-3), rtol=1e-5)
    assert not nnx.state(norm, nnx.Param)


def test_it_computes_in_float32_and_returns_the_dtype_of_its_input():
    x = (1000 + gaussian(0, (64, 3), np.float32)).astype(jnp.bfloat16)
    norm = BatchNorm(3, momentum=0.0)
    assert norm(x).dtype == jnp.bfloat16
    np.testing.assert_allclose(norm.mean[...], np.asarray(x, np.float64).mean(axis=0), rtol=1e-6)


@pytest.mark.parametrize("norm", [BatchNorm, nnx.BatchNorm])
def test_population_statistics_are_those_of_the_data_layer_by_layer(norm):
    model = nnx.jit(lambda: Stack(lambda rngs: Layer(4, norm, rngs), 3, rngs=nnx.Rngs(0)))()
    model.eval()
    momentum = model.layers.norm.momentum
    x = gaussian(0, (50, 4), np.float32)
    outputs = nnx.jit(population_statistics)(model, x)
    y, kernels = np.asarray(x, np.float64), np.asarray(model.layers.linear.kernel[...])
    for kernel, mean, var in zip(
        kernels, model.layers.norm.mean[...], model.layers.norm.var[...], strict=True
    ):
        y = y @ kernel
        np.testing.assert_allclose(mean, y.mean(axis=0), atol=1e-5)
        np.testing.assert_allclose(var, y.var(axis=0), rtol=1e-4)
        y = np.tanh((y - y.mean(axis=0)) / np.sqrt(y.var(axis=0) + 1e-5))
    np.testing.assert_allclose(outputs, y, atol=1e-4)
    assert (model.layers.norm.use_running_average, model.layers.norm.momentum) == (True, momentum)
    # So evaluation of these data is training without dropout.
    np.testing.assert_allclose(nnx.jit(lambda model: model(x))(model), outputs, atol=1e-5)
