"""Bounded attention: its formula in NumPy, its bounds, and rules that keep them in training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from matrices_of import gaussian, orthonormal

import orthojax
from experiments import configuration, models
from experiments.configs import shakespeare, vit_orthogonal_cifar10
from orthojax.attention import bounded_attention, bounded_logits, rms_normalize
from orthojax.nn import BoundedAttention

T, N, H, D = 5, 6, 2, 3
RULES = [
    (r"(.*/)?(query|key|value)/kernel", orthojax.MatrixAxes(0, 2)),
    (r"(.*/)?out/kernel", "orthogonal"),
    (".*", "free"),
]


def kernels(seed=0):
    """Query, key and value [N, H, D], a matrix with orthonormal columns each head."""
    stacks = [orthonormal(seed + i, (H, N, D)) for i in range(3)]
    return [np.moveaxis(stack, 0, 1) for stack in stacks]


def expected(x, q, k, v, scale, causal):
    """One head at a time, one token at a time; jax takes the softmax in float32."""
    tokens = x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6)
    outputs = np.zeros((len(x), H, D))
    for h in range(H):
        for i in range(len(x)):
            seen = range(i + 1) if causal else range(len(x))
            logits = [scale[h] / N * (tokens[i] @ q[:, h]) @ (tokens[j] @ k[:, h]) for j in seen]
            weights = np.exp(logits) / np.sum(np.exp(logits))
            outputs[i, h] = sum(w * tokens[j] @ v[:, h] for w, j in zip(weights, seen, strict=True))
    return outputs


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_that_of_the_formula(causal, x64):
    x, scale = gaussian(9, (T, N)), np.array([2.0, 7.0])
    q, k, v = kernels()
    attend = jax.jit(functools.partial(bounded_attention, is_causal=causal))
    found = attend(x, q, k, v, scale)
    np.testing.assert_allclose(found, expected(x, q, k, v, scale, causal), rtol=1e-5, atol=1e-6)
    batch = attend(np.stack([x, 2 * x]), q, k, v, scale)
    np.testing.assert_allclose(batch[0], found, rtol=1e-5, atol=1e-6)


def test_logits_reach_the_bound_and_never_pass_it(x64):
    q, k, _ = kernels()
    k[:, 0] = q[:, 0]
    x = np.concatenate([1e3 * gaussian(1, (T, N)), np.zeros((1, N))])
    x[0] = 1e3 * q[:, 0] @ np.ones(D)  # In the span of the head's queries and keys.
    logits = np.abs(bounded_logits(x, q, k, np.array([4.0, 0.5])))
    assert (logits.max(axis=(1, 2)) <= [4.0, 0.5]).all()
    np.testing.assert_allclose(logits[0, 0, 0], 4.0, rtol=1e-9)
    np.testing.assert_allclose(logits[:, -1], 0, atol=1e-12)


def test_no_output_moves_by_more_than_the_largest_move_of_a_token(x64):
    """In the normalized tokens, where it is (1 + 2 scale): the worst of the whole Jacobian."""
    q, k, v = kernels()
    scale = 3.0
    x = np.asarray(rms_normalize(gaussian(3, (T, N))))

    def head(tokens):  # The formula behind the normalization.
        logits = scale / N * tokens @ q[:, 0] @ (tokens @ k[:, 0]).T
        return jax.nn.softmax(logits) @ (tokens @ v[:, 0])

    jacobian = np.asarray(jax.jit(jax.jacobian(head))(jnp.asarray(x)))  # [T, D, T, N]
    norms = np.linalg.norm(jacobian.transpose(0, 2, 1, 3), ord=2, axis=(2, 3))
    assert norms.sum(axis=1).max() <= 1 + 2 * scale
    np.testing.assert_allclose(head(x), bounded_attention(x, q, k, v, scale)[:, 0], atol=1e-5)


def test_a_token_of_zeros_has_a_finite_gradient():
    q, k, v = kernels()
    loss = lambda x: jnp.sum(jnp.sin(bounded_attention(x, q, k, v, 2.0)))
    assert np.isfinite(jax.jit(jax.grad(loss))(jnp.zeros((T, N)))).all()


def test_bfloat16_is_computed_as_float32_would_be():
    x, (q, k, v) = gaussian(2, (T, N), np.float32), kernels()
    wide = bounded_attention(x, q, k, v, 2.0)
    narrow = bounded_attention(*(jnp.asarray(a, jnp.bfloat16) for a in (x, q, k, v)), 2.0)
    assert narrow.dtype == jnp.bfloat16
    np.testing.assert_allclose(narrow.astype(np.float32), wide, atol=0.05)


@pytest.mark.parametrize(
    ("x", "q", "k", "words"),
    [
        ((N,), (N, H, D), (N, H, D), r"`x` are tokens .* got shape \(6,\)"),
        ((T, N), (7, H, D), (N, H, D), r"`query` must be .* n=6, got \(7, 2, 3\)"),
        ((T, N), (N, H, D), (N, D), r"`key` must be .* got \(6, 3\)"),
        ((T, N), (N, H, D), (N, H, 4), r"one shape, got \(6, 2, 3\) and \(6, 2, 4\)"),
    ],
)
def test_shapes_that_do_not_fit_are_told(x, q, k, words):
    with pytest.raises(ValueError, match=words):
        bounded_logits(*map(jnp.ones, (x, q, k)), 1.0)


def test_impossible_options_of_the_module_are_told():
    for options, words in (({"heads": 4}, "`heads` .*=6, got 4"), ({"scale": 0.0}, "`scale`")):
        with pytest.raises(ValueError, match=words):
            BoundedAttention(N, **{"heads": 2} | options, rngs=nnx.Rngs(0))


def test_training_under_the_rules_keeps_the_bound():
    make = nnx.jit(lambda: BoundedAttention(N, H, scale=2.0, train_scale=False, rngs=nnx.Rngs(0)))
    graph, params, rest = nnx.split(make(), nnx.Param, ...)
    assert "log_scale" not in params
    tx = orthojax.orthogonal(optax.adam(0.1), rules=RULES)
    x = jnp.asarray(gaussian(0, (2, T, N), np.float32))

    @jax.jit
    def step(params, state):
        def sharpness(params):
            logits = nnx.merge(graph, params, rest, copy=True).logits(x)
            return -jnp.sum(jnp.square(logits)), jnp.abs(logits).max()

        (loss, largest), grads = jax.value_and_grad(sharpness, has_aux=True)(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss, largest

    state, losses = jax.jit(tx.init)(params), []
    for _ in range(10):
        params, state, loss, largest = step(params, state)
        losses.append(loss)
    assert losses[-1] < 1.5 * losses[0]
    assert 1 < largest <= 2
    kernel = params["query"]["kernel"][...]
    assert orthojax.orthogonality_error(kernel, orthojax.MatrixAxes(0, 2)) < 1e-6


OPTIONS = {"width": 8, "depth": 1, "heads": 2, "hidden": 12, "dropout": 0.0}


@pytest.mark.parametrize("attention", ["dot", "normalized", "bounded"])
def test_the_decoder_sees_no_character_that_comes_later(attention):
    def logits(text):
        arguments = {"vocabulary": 7, "length": 6}
        options = {"attention": attention, **OPTIONS}
        return models.build("char_transformer", arguments, nnx.Rngs(0), **options)(text)

    text = np.array([[1, 5, 0, 3, 2, 6], [1, 5, 0, 4, 1, 1], [1, 5, 2, 3, 2, 6]])
    found, shorter = jax.jit(lambda text: (logits(text), logits(text[:, :4])))(text)
    assert found.shape == (3, 6, 7)
    np.testing.assert_allclose(found[0, :3], found[1, :3], atol=1e-6)
    assert jnp.abs(found[0, 3:] - found[1, 3:]).max() > 1e-3
    assert jnp.abs(found[0, 3:] - found[2, 3:]).max() > 1e-3  # But those before it.
    np.testing.assert_allclose(found[:, :4], shorter, atol=1e-5)


def test_heads_that_do_not_divide_the_width_are_told():
    options = OPTIONS | {"heads": 3, "attention": "dot"}
    with pytest.raises(ValueError, match="`heads` must divide `width`=8, got 3"):
        models.build("char_transformer", {"vocabulary": 7, "length": 6}, nnx.Rngs(0), **options)


def test_with_orthonormal_kernels_bounded_attention_is_that_of_normalized_tokens():
    """At its default scale, Flax's own behind a normalization."""

    @jax.jit
    def both(x):
        bounded = BoundedAttention(N, H, rngs=nnx.Rngs(0))
        usual = nnx.MultiHeadAttention(H, N, use_bias=False, decode=False, rngs=nnx.Rngs(1))
        for name in ("query", "key", "value", "out"):
            getattr(usual, name).kernel[...] = getattr(bounded, name).kernel[...]
        return bounded(x), usual(rms_normalize(x))

    np.testing.assert_allclose(*both(gaussian(0, (2, T, N), np.float32)), atol=1e-5)


@pytest.mark.parametrize(
    ("config", "arm", "arguments", "stacks"),
    [
        (shakespeare, "orthogonal", {"vocabulary": 65, "length": 64}, {()}),
        (shakespeare, "bounded", {"vocabulary": 65, "length": 64}, {(), (4,)}),
        (
            vit_orthogonal_cifar10,
            "orthogonal",
            {"image_shape": (32, 32, 3), "num_classes": 10},
            {(), (3,)},
        ),
    ],
)
def test_the_rules_of_the_experiments_choose_all_kernels_of_attention(
    config, arm, arguments, stacks
):
    c = configuration.arms(config.get_config())[arm]
    build = lambda: models.build(**c.model.to_dict(), arguments=arguments, rngs=nnx.Rngs(0))
    params = nnx.state(nnx.eval_shape(build), nnx.Param)
    chosen = orthojax.matrices.constrained(params, c.constraint.rules)
    kernels = {name for name in orthojax.matrices.named(params) if "attention/" in name}
    assert set(chosen) == {name for name in kernels if name.endswith("kernel")}
    assert {axes.batch_shape(x.shape) for x, axes in chosen.values()} == stacks
