"""Autoformer: its parts against direct sums, the whole against a forward pass in NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from flax import nnx

from experiments.models import autoformer

PUBLISHED = {
    "width": 512,
    "heads": 8,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "hidden": 2048,
    "moving_average": 25,
    "factor": 1,
    "dropout": 0.05,
}
SMALL = {"width": 8, "heads": 2, "encoder_layers": 1, "hidden": 12, "moving_average": 5}
HISTORY, CHANNELS, MARKS = 14, 3, 4


def build(horizon=6, **options):
    def make():
        rngs = nnx.Rngs(0)
        return autoformer.Autoformer(
            HISTORY, horizon, CHANNELS, MARKS, **PUBLISHED | SMALL | options, rngs=rngs
        )

    return nnx.jit(make)()


@nnx.jit
def forward(model, inputs):
    return model(inputs)


def random_inputs(horizon=6, batch=3):
    rng = np.random.default_rng(0)
    return {
        "past": rng.normal(size=(batch, HISTORY, CHANNELS)),
        "past_marks": rng.normal(size=(batch, HISTORY, MARKS)),
        "future_marks": rng.normal(size=(batch, horizon, MARKS)),
    }


def to_jax(tree):
    return jax.tree.map(jnp.asarray, tree)


# The forward pass in NumPy, with heads, sums instead of Fourier transforms, and loops.


def numpy_decompose(x, window):
    edge = window // 2
    padded = np.concatenate([x[:, :1]] * edge + [x] + [x[:, -1:]] * edge, axis=1)
    trend = np.stack([padded[:, t : t + window].mean(1) for t in range(x.shape[1])], axis=1)
    return x - trend, trend


def numpy_correlations(queries, keys):
    """[B, L, ...] -> [B, L, ...], one correlation for each channel."""
    length = queries.shape[1]
    delays = [
        sum(queries[:, (t + delay) % length] * keys[:, t] for t in range(length))
        for delay in range(length)
    ]
    return np.stack(delays, axis=1)


def numpy_aggregate(values, correlation, count, shared):
    out = []
    for own, series in zip(correlation, values, strict=True):
        delays = np.argsort(-(correlation.mean(0) if shared else own))[:count]
        weights = scipy.special.softmax(own[delays])
        out.append(
            sum(w * np.roll(series, -d, axis=0) for w, d in zip(weights, delays, strict=True))
        )
    return np.stack(out)


def numpy_attention(p, x, source, factor, heads, shared):
    batch, length, width = x.shape
    q, k, v = (
        y @ p[name]["kernel"] + p[name]["bias"]
        for name, y in [("query", x), ("key", source), ("value", source)]
    )
    missing = max(0, length - source.shape[1])
    k, v = (np.pad(y[:, :length], ((0, 0), (0, missing), (0, 0))) for y in (k, v))
    split = (batch, length, heads, width // heads)
    correlation = numpy_correlations(q.reshape(split), k.reshape(split)).mean((2, 3))
    out = numpy_aggregate(v, correlation, int(factor * math.log(length)), shared)
    return out @ p["out"]["kernel"] + p["out"]["bias"]


def numpy_feed_forward(p, x):
    hidden = x @ p["feed_in"]["kernel"]
    return hidden * scipy.special.ndtr(hidden) @ p["feed_out"]["kernel"]


def numpy_conv(p, x):
    return sum(np.roll(x, 1 - j, axis=1) @ p["kernel"][j] for j in range(3))


def numpy_norm(p, x):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    x = x * p["scale"] + p["bias"]
    return x - x.mean(1, keepdims=True)


def numpy_forward(p, inputs, horizon, layers, window, factor, heads, shared):
    past, past_marks = inputs["past"], inputs["past_marks"]

    def embed(name, values, marks):
        return numpy_conv(p[name]["values"], values) + marks @ p[name]["marks"]["kernel"]

    def attend(layer, x, source):
        return numpy_attention(layer, x, source, factor, heads, shared)

    x = embed("past_embedding", past, past_marks)
    for i in range(layers):
        layer = p[f"encoder_{i}"]
        x, _ = numpy_decompose(x + attend(layer["attention"], x, x), window)
        x, _ = numpy_decompose(x + numpy_feed_forward(layer, x), window)
    encoded = numpy_norm(p["encoder_norm"], x)

    seasonal, trend = (part[:, -(HISTORY // 2) :] for part in numpy_decompose(past, window))
    seasonal = np.pad(seasonal, ((0, 0), (0, horizon), (0, 0)))
    trend = np.concatenate([trend] + [past.mean(1, keepdims=True)] * horizon, axis=1)
    marks = np.concatenate([past_marks[:, -(HISTORY // 2) :], inputs["future_marks"]], axis=1)
    x = embed("future_embedding", seasonal, marks)
    for i in range(layers):
        layer = p[f"decoder_{i}"]
        x, first = numpy_decompose(x + attend(layer["self_attention"], x, x), window)
        x, second = numpy_decompose(x + attend(layer["cross_attention"], x, encoded), window)
        x, third = numpy_decompose(x + numpy_feed_forward(layer, x), window)
        trend = trend + numpy_conv(layer["trend"], first + second + third)
    x = numpy_norm(p["decoder_norm"], x)
    return (trend + x @ p["head"]["kernel"] + p["head"]["bias"])[:, -horizon:]


# In evaluation the decoder's series are shorter than the past, in training longer.
@pytest.mark.parametrize(("training", "horizon", "layers"), [(False, 3, 1), (True, 11, 2)])
def test_the_forecast_is_that_of_numpy(training, horizon, layers, x64):
    layers_of = {"encoder_layers": layers, "decoder_layers": layers}
    model = build(horizon, **layers_of, factor=1.6, dropout=0.0)
    rng = np.random.default_rng(1)
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape) / 2, params)
    nnx.update(model, to_jax(params))
    if not training:
        model.eval()
    inputs = random_inputs(horizon)
    expected, of_the_other_mode = (
        numpy_forward(params, inputs, horizon, layers, 5, 1.6, 2, shared)
        for shared in (training, not training)
    )
    np.testing.assert_allclose(forward(model, to_jax(inputs)), expected, atol=1e-9)
    assert np.abs(expected - of_the_other_mode).max() > 0.1


@pytest.mark.parametrize("window", [1, 5, 25])
def test_seasonal_part_and_trend_add_up_and_the_trend_is_the_moving_average(window, x64):
    series = np.random.default_rng(0).normal(size=(2, 9, 3))
    seasonal, trend = autoformer.decompose(jnp.asarray(series), window)
    np.testing.assert_allclose(seasonal + trend, series, atol=1e-15)
    np.testing.assert_allclose(trend, numpy_decompose(series, window)[1], atol=1e-14)


@pytest.mark.parametrize("length", [8, 9])
def test_correlations_are_direct_sums(length, x64):
    queries, keys = np.random.default_rng(0).normal(size=(2, 3, length, 4))
    result = autoformer.correlations(jnp.asarray(queries), jnp.asarray(keys))
    np.testing.assert_allclose(result, numpy_correlations(queries, keys).mean(-1), atol=1e-14)


@pytest.mark.parametrize("shared", [True, False])
def test_a_periodic_series_is_aligned_with_itself(shared, x64):
    # 24 steps of period 6: the four delays of largest correlation are its four multiples.
    wave = np.random.default_rng(0).normal(size=(3, 6, 2))
    series = jnp.asarray(np.tile(wave, (1, 4, 1)))
    correlation = autoformer.correlations(series, series)
    result = autoformer.aggregate(series, correlation, 4, shared)
    np.testing.assert_allclose(result, series, atol=1e-13)
    shifted = autoformer.aggregate(jnp.roll(series, 2, axis=1), correlation, 4, shared)
    np.testing.assert_allclose(shifted, jnp.roll(series, 2, axis=1), atol=1e-13)


def test_an_example_influences_no_other_in_evaluation():
    model, inputs = build(dropout=0.5), random_inputs()
    model.eval()
    among_others = jax.tree.map(lambda x: np.stack([x[2] + 1, x[1], -x[0]]), inputs)
    first, second = (forward(model, to_jax(x)) for x in (inputs, among_others))
    np.testing.assert_allclose(first[1], second[1], atol=1e-5)
    assert np.abs(first[0] - second[0]).max() > 0.1


@pytest.mark.slow
def test_dropout_is_on_in_training_only():
    model, inputs = build(dropout=0.5), to_jax(random_inputs())
    assert not np.array_equal(forward(model, inputs), forward(model, inputs))
    model.eval()
    np.testing.assert_array_equal(forward(model, inputs), forward(model, inputs))


@pytest.mark.parametrize(("marks", "known"), [(4, 10_535_943), (5, 10_536_967)])
def test_the_published_size_has_the_known_number_of_parameters(marks, known):
    def params():
        model = autoformer.Autoformer(96, 192, 7, marks, **PUBLISHED, rngs=nnx.Rngs(0))
        return nnx.state(model, nnx.Param)

    d, hidden, channels = 512, 2048, 7
    attention, feed_forward = 4 * (d * d + d), 2 * d * hidden
    embedding, norm, head = (3 * channels + marks) * d, 2 * d, (d + 1) * channels
    encoder, decoder = attention + feed_forward, 2 * attention + feed_forward + 3 * d * channels
    count = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(params)))
    assert count == 2 * embedding + 2 * encoder + decoder + 2 * norm + head == known


def test_the_kernels_are_ordinary_ones_at_these_paths():
    params = nnx.to_pure_dict(nnx.state(build(dropout=0.5), nnx.Param))
    layer = params["decoder_0"]
    assert layer["cross_attention"]["query"]["kernel"].shape == (8, 8)
    assert params["encoder_0"]["attention"]["out"]["kernel"].shape == (8, 8)
    assert layer["feed_in"]["kernel"].shape == (8, 12)
    assert layer["feed_out"]["kernel"].shape == (12, 8)
    assert layer["trend"]["kernel"].shape == (3, 8, CHANNELS)


def test_a_few_steps_learn_a_sine():
    time = np.arange(200)[:, None] * np.ones(CHANNELS) + np.arange(CHANNELS)
    series = np.sin(2 * np.pi * time / 10)
    starts = np.arange(0, 160, 5)
    windows = np.stack([series[start : start + HISTORY + 6] for start in starts])
    inputs = random_inputs(batch=len(starts)) | {"past": windows[:, :HISTORY]}
    inputs, targets = to_jax((inputs, windows[:, HISTORY:]))
    graph, params, variables = nnx.split(build(dropout=0.0), nnx.Param, ...)
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(params, variables, opt_state):
        def loss_fn(params):
            model = nnx.merge(graph, params, variables, copy=True)
            loss = jnp.mean((model(inputs) - targets) ** 2)
            return loss, nnx.state(model, nnx.Not(nnx.Param))

        (loss, variables), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), variables, opt_state, loss

    opt_state, losses = optimizer.init(params), []
    for _ in range(40):
        params, variables, opt_state, loss = step(params, variables, opt_state)
        losses.append(float(loss))
    assert losses[-1] < losses[0] / 4


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="`heads` divides `width`, got 3 heads for width 8"):
        build(heads=3)
    with pytest.raises(ValueError, match="`moving_average` is odd and at least 1, got 4"):
        build(moving_average=4)
