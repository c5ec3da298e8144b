"""Layers under scan are the same layers one after another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from orthojax.nn.stack import Repeat, Stack

DEPTH, WIDTH = 5, 4


class Layer(nnx.Module):
    def __init__(self, rngs, gain):
        self.linear = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.norm = nnx.BatchNorm(WIDTH, momentum=0.5, rngs=rngs)
        self.drop = nnx.Dropout(0.3, rngs=rngs)
        self.gain = nnx.Variable(gain)
        self.basis = nnx.Variable(jnp.eye(WIDTH))

    def __call__(self, x):
        return self.drop(jnp.tanh(self.gain[...] * self.norm(self.linear(x)) @ self.basis[...]))


def stack(**options):
    gains = 1.0 / jnp.arange(1.0, DEPTH + 1)
    return Stack(Layer, DEPTH, gains, rngs=nnx.Rngs(0), **options)


def state(module):
    """All arrays, keys of random numbers as their bits."""
    keys = lambda x: (
        jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    )
    return jax.tree.map(lambda x: np.asarray(keys(x)), nnx.to_pure_dict(nnx.state(module)))


def assert_same(a, b):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), a, b)


X = jax.random.normal(jax.random.key(1), (6, WIDTH))


@pytest.mark.parametrize("options", [{}, {"remat": "none"}, {"remat": "all"}, {"unroll": 2}])
def test_a_stack_equals_its_layers_one_at_a_time_in_training(options):
    whole = stack(**options)
    layers = [whole.layer(i) for i in range(DEPTH)]
    x, outputs = X, []
    for layer in layers:
        x = layer(x)
        outputs.append(x)
    np.testing.assert_allclose(nnx.clone(whole).outputs(X), jnp.stack(outputs), rtol=1e-5)
    np.testing.assert_allclose(whole(X), x, rtol=1e-5)
    for i, layer in enumerate(layers):  # Statistics and dropout counts have gone on alike.
        assert_same(state(layer), state(whole.layer(i)))


def test_layers_draw_their_own_weights_and_masks_and_keep_their_constants():
    layers = stack().layers
    kernels = np.asarray(layers.linear.kernel[...])
    assert kernels.shape == (DEPTH, WIDTH, WIDTH)
    assert len({kernel.tobytes() for kernel in kernels}) == DEPTH
    assert (
        len({key.tobytes() for key in np.asarray(jax.random.key_data(layers.drop.rngs.key[...]))})
        == DEPTH
    )
    np.testing.assert_allclose(layers.gain[...], 1 / np.arange(1.0, DEPTH + 1))


def test_gradients_are_those_of_the_unrolled_layers():
    whole = stack()
    whole.eval()
    graph, params, rest = nnx.split(whole, nnx.Param, ...)

    def scanned(params):
        return jnp.sum(nnx.merge(graph, params, rest, copy=True)(X) ** 2)

    def unrolled(params):
        merged, x = nnx.merge(graph, params, rest, copy=True), X
        for i in range(DEPTH):
            x = merged.layer(i)(x)
        return jnp.sum(x**2)

    assert_same(*(nnx.to_pure_dict(jax.jit(jax.grad(f))(params)) for f in (scanned, unrolled)))


def test_the_program_of_a_stack_does_not_grow_with_its_depth():
    def equations(depth):
        gains = jnp.ones(depth)
        whole = nnx.eval_shape(lambda: Stack(Layer, depth, gains, rngs=nnx.Rngs(0)))
        graph, state = nnx.split(whole)
        return str(
            jax.make_jaxpr(lambda state: nnx.merge(graph, state, copy=True)(X))(state)
        ).count(" = ")

    assert equations(1000) == equations(10)


def test_what_no_layer_changes_is_not_written_again():
    class Swapping(Layer):
        def __init__(self, rngs, gain):
            super().__init__(rngs, gain)
            self.calls = nnx.Variable(jnp.zeros([]))

        def __call__(self, x):
            self.calls[...], self.gain[...] = self.gain[...], self.calls[...]
            return super().__call__(x)

    whole = Stack(Swapping, DEPTH, jnp.arange(1.0, 1 + DEPTH), rngs=nnx.Rngs(0))
    graph, state = nnx.split(whole)
    jaxpr = jax.make_jaxpr(lambda state: nnx.merge(graph, state, copy=True)(X))(state)
    (scan,) = (equation for equation in jaxpr.eqns if equation.primitive.name == "scan")
    moving = [x.aval.shape[1:] for x in scan.outvars[1:]]
    # Calls, count of dropout, gain, mean and variance; no key and no basis.
    assert sorted(moving) == [(), (), (), (WIDTH,), (WIDTH,)]
    whole(X)
    np.testing.assert_array_equal(whole.layers.calls[...], jnp.arange(1.0, 1 + DEPTH))
    assert whole.layers.basis[...].shape == (DEPTH, WIDTH, WIDTH)


def test_layers_are_counted_as_in_python():
    whole = stack()
    np.testing.assert_array_equal(whole.layer(-1).gain[...], whole.layers.gain[...][DEPTH - 1])
    for module in (whole, Repeat(whole.layer(0), DEPTH)):
        for index in (DEPTH, -DEPTH - 1):
            with pytest.raises(IndexError, match=f"from -5 to 4, got {index}"):
                module.layer(index)


@pytest.mark.parametrize(
    ("outputs", "dtype", "got"),
    [(3, None, r"float32\[6, 3\]"), (4, "bfloat16", r"bfloat16\[6, 4\]")],
)
def test_a_layer_that_changes_shape_or_dtype_is_told(outputs, dtype, got):
    make = lambda rngs: nnx.Linear(WIDTH, outputs, dtype=dtype, rngs=rngs)
    for module in (Stack(make, 3, rngs=nnx.Rngs(0)), Repeat(make(nnx.Rngs(0)), 3)):
        with pytest.raises(ValueError, match=rf"shape and dtype, float32\[6, 4\], got {got}: make"):
            module(X)


def test_repeat_is_one_layer_several_times():
    layer = Layer(nnx.Rngs(0), jnp.asarray(2.0))
    alone, repeated, x = nnx.clone(layer), Repeat(layer, 3), X
    outputs = []
    for _ in range(3):
        x = alone(x)
        outputs.append(x)
    np.testing.assert_allclose(repeated.outputs(X), jnp.stack(outputs), rtol=1e-5)
    assert_same(state(alone), state(repeated.layer(1)))


def test_what_cannot_be_stacked_is_an_error():
    with pytest.raises(ValueError, match="`depth` must be at least 1, got 0"):
        Stack(Layer, 0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="leading axis of depth=3, got shape \\(2,\\)"):
        Stack(Layer, 3, jnp.ones(2), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="`remat` is one of none, elementwise, all, got True"):
        Stack(Layer, 3, jnp.ones(3), rngs=nnx.Rngs(0), remat=True)
    with pytest.raises(ValueError, match="`depth` must be at least 1, got 0"):
        Repeat(Layer(nnx.Rngs(0), jnp.ones([])), 0)
