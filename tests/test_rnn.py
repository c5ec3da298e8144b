"""Copy memory and pixels in a row: the data, the recurrent models, their configurations."""

import jax
import numpy as np
import pytest
from flax import nnx

from experiments import configuration, data, fitting, models, optimizers, training
from experiments.configs import copy_memory, mnist_pixels, mnist_pixels_short
from orthojax.maps.unitary import real_form
from orthojax.matrices import named


def test_examples_of_copying_are_functions_of_their_index():
    dataset = data.load("copying", length=7, symbols=3)
    inputs, targets = dataset.train.take(np.array([5, 0, 5, 80_000]))
    assert inputs.shape == targets.shape == (4, 13)
    for x, y in zip(inputs, targets, strict=True):
        symbols = x[:3]
        assert ((symbols >= 1) & (symbols <= 8)).all()
        np.testing.assert_array_equal(x, [*symbols, *[0] * 7, 9, 0, 0])
        np.testing.assert_array_equal(y, [*[0] * 10, *symbols])
    np.testing.assert_array_equal(inputs[0], inputs[2])
    alone, _ = dataset.train.take(np.array([80_000]))
    np.testing.assert_array_equal(alone[0], inputs[3])


def test_symbols_of_copying_are_uniform_and_independent_of_their_place():
    dataset = data.load("copying", length=1, symbols=10)
    sizes = ((dataset.train, 20_000), (dataset.test, 512))
    examples = [split.take(np.arange(n))[0] for split, n in sizes]
    strings = np.concatenate(examples)[:, :10]
    assert len(np.unique(strings, axis=0)) == len(strings)  # No test example in training.
    places = np.stack([np.bincount(column, minlength=9)[1:] for column in strings.T])
    expected = len(strings) / 8
    np.testing.assert_allclose(places, expected, atol=5 * expected**0.5)
    pairs = np.bincount(8 * strings[:, 0] + strings[:, 1] - 9, minlength=64)
    np.testing.assert_allclose(pairs, expected / 8, atol=5 * (expected / 8) ** 0.5)


def build(name, arguments, **options):
    make = nnx.jit(lambda: models.build(name, arguments, nnx.Rngs(0), **options))
    return make()


@pytest.mark.parametrize("cell", ["orthogonal", "lstm"])
def test_logits_of_tokens_depend_on_the_past_alone(cell):
    options = {"cell": cell, "width": 4, "start": "haar"}
    model = build("token_rnn", {"vocabulary": 5}, **options)
    call = nnx.jit(lambda model, x: model(x))
    symbols = np.random.default_rng(0).integers(0, 5, (3, 8))
    logits = call(model, symbols)
    assert logits.shape == (3, 8, 5)
    changed = symbols.copy()
    changed[:, 5] = (symbols[:, 5] + 1) % 5
    other = call(model, changed)
    np.testing.assert_allclose(other[:, :5], logits[:, :5], atol=1e-6)
    assert (np.abs(other - logits)[:, 5:].max(axis=(0, 2)) > 1e-5).all()


def test_pixels_are_pooled_and_read_in_one_order():
    arguments = {"image_shape": (6, 4, 2), "num_classes": 3}
    options = {"cell": "orthogonal", "width": 4, "start": "henaff", "pool": 2}
    images = np.random.default_rng(0).normal(size=(2, 6, 4, 2)).astype(np.float32)
    pooled = images.reshape(2, 3, 2, 2, 2, 2).mean(axis=(2, 4)).reshape(2, 6, 2)
    order = np.random.default_rng(0).permutation(6)
    model = build("pixel_rnn", arguments, permute=True, **options)
    of_pixels = lambda model, x: model.head(model.layer(x)[:, -1])
    logits, expected = nnx.jit(lambda model, x, y: (model(x), of_pixels(model, y)))(
        model, images, pooled[:, order]
    )
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_the_lstm_has_as_many_recurrent_parameters_as_the_orthogonal_network():
    for config in (copy_memory.get_config(), mnist_pixels_short.get_config()):
        widths = {arm.model.cell: arm.model.width for arm in configuration.arms(config).values()}
        assert 4 * widths["lstm"] ** 2 == widths["orthogonal"] ** 2 == widths["vanilla"] ** 2


@pytest.mark.parametrize("config", [copy_memory, mnist_pixels, mnist_pixels_short])
def test_every_arm_of_the_configurations_is_right(config):
    arms = configuration.arms(config.get_config())
    assert {arm.constraint.map != "none" for arm in arms.values()} >= {True}


@pytest.mark.parametrize("name", ["orthogonal", "unitary"])
def test_the_arms_of_copying_learn_a_short_copy_and_stay_on_their_manifold(name):
    config = configuration.arms(copy_memory.get_config())[name].unlock()
    config.update_from_flattened_dict(
        {"data.length": 3, "data.symbols": 2, "model.width": 16, "optimizer.lr": 5e-3}
        | {"batch_size": 24}
    )
    dataset = fitting.load_data(config)
    model = fitting.make_model(config, dataset)
    fitting.check_rules(config, jax.eval_shape(model.init)[0])
    optimizer = optimizers.make_optimizer(config)
    step = training.make_train_step(config, model, optimizer)
    batches = [data.batch(dataset.train, 24, 0, i) for i in range(30)]

    @jax.jit
    def run(batches):
        state = training.init_state(model, optimizer, 0)
        return jax.lax.scan(lambda state, batch: step(state, *batch), state, batches)

    state, losses = run(jax.tree.map(lambda *x: np.stack(x), *batches))
    assert losses[-1] < 0.7 * losses[0]
    w = named(state.params)["layer/cell/kernel"]
    w = real_form(w) if name == "unitary" else w
    np.testing.assert_allclose(w @ w.T, np.eye(len(w)), atol=1e-5)
