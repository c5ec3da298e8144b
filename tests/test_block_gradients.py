"""Gradients of blocks at the start and after training, against a model taken apart."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.linalg
from flax import nnx

from experiments import configuration, data, models, studies
from experiments.configs import orthogonal_attention_gradients
from experiments.studies import block_gradients

ATTENTION = ("query", "key", "value", "out")


def small(**overrides):
    config = orthogonal_attention_gradients.get_config()
    overrides = {"data.name": "mnist_5k", "batch_size": 2, "model.patch": 14} | overrides
    overrides |= {
        "model.remat": "none",
        "model.width": 8,
        "model.hidden": 8,
        "model.heads": 2,
        "study.steps": 2,
    }
    config.update_from_flattened_dict(overrides)
    return configuration.arms(config, studies.check)


@pytest.mark.slow
def test_norms_are_those_of_each_block_and_training_lowers_the_loss():
    config = small(**{"model.depth": 2})["post-norm, orthogonal"]
    dataset = data.load("mnist_5k")
    images, labels = data.batch(dataset.train, 2, 0, 0)
    run = jax.jit(block_gradients.make_run(config, dataset))
    norms, losses = run(jax.random.key(0), np.stack([images] * 3), np.stack([labels] * 3))
    assert norms.shape == (3, 2)
    assert losses[2] < losses[0]

    @nnx.jit
    def build():
        options, arguments = config.model.to_dict(), dataset.model_arguments
        return models.build(**options, arguments=arguments, rngs=nnx.Rngs(0))

    graph, params, rest = nnx.split(build(), nnx.Param, ...)
    for name in ATTENTION:
        kernel = params["hidden"]["layers"][name]["kernel"]
        kernel[...] = np.stack([scipy.linalg.polar(np.asarray(w))[0] for w in kernel[...]])

    @jax.jit
    @jax.value_and_grad
    def value_and_grad(params):
        x = (images / 255 - dataset.mean[0]) / dataset.std[0]
        logits = nnx.merge(graph, params, rest, copy=True)(x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    value, grads = value_and_grad(params)
    kernels = [np.asarray(grads["hidden"]["layers"][n]["kernel"][...]) for n in ATTENTION]
    expected = np.log(np.linalg.norm(np.stack(kernels, 1).reshape(2, -1), axis=1))
    np.testing.assert_allclose(norms[0], expected, atol=1e-3)
    np.testing.assert_allclose(losses[0], value, rtol=1e-4)


def test_a_figure_and_a_table_of_all_cells(tmp_path):
    arms = small(**{"study.depths": (1, 3)})
    rows = [
        {"arm": arm, "depth": depth, "seed": seed, "step": step}
        | block_gradients.summary(np.linspace(seed, step, depth), 1.0)
        for arm in arms
        for depth in (1, 3)
        for seed in (0, 1)
        for step in (0, 2)
    ]
    figures, lines = block_gradients.report(arms, rows)
    assert len(figures["block_gradients"].axes) == 8
    assert lines[0] == ["last - first log |grad|, depth:", 1, 3]
    assert lines[-1][0] == "pre-norm, orthogonal, after 2 steps"
    assert lines[-1][1:] == ["0.00 ± 0.00", "1.50 ± 0.71"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"study.depths": ()}, "study.depths"),
        ({"study.kernels": "("}, "study.kernels"),
        ({"constraint.map": "caley"}, "constraint.map: .*cayley"),
        ({"study.lr": 0.0}, "study.lr must be positive"),
    ],
)
def test_what_cannot_be_right_is_told(overrides, words):
    with pytest.raises(configuration.ConfigurationError, match=words):
        small(**overrides)


def test_kernels_that_match_nothing_are_told():
    grads = {"hidden": {"layers": {"key": {"kernel": jnp.ones((3, 2, 2))}}}}
    with pytest.raises(configuration.ConfigurationError, match=r"'quer.*hidden/layers/key/kernel"):
        block_gradients.block_norms(grads, "query.*")
