"""The models of images: shapes, and the parameter paths that rules of configurations speak of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments import models

LAYERS = {"kernel_init": "orthogonal", "activation": "tanh"}
OPTIONS = {
    "mlp": {"width": 8, "depth": 2} | LAYERS,
    "cnn": {"channels": (4, 6), "depth": 2, "width": 8} | LAYERS,
    "vit": {
        "patch": 1,
        "width": 8,
        "depth": 2,
        "heads": 2,
        "hidden": 12,
        "qkv_bias": True,
        "dropout": 0.0,
    },
}


def build(name, image_shape=(8, 8, 3)):
    arguments = {"image_shape": image_shape, "num_classes": 10}
    return models.build(name, arguments, nnx.Rngs(0), **OPTIONS[name])


def shapes(model):
    leaves = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    return {jax.tree_util.keystr(p, simple=True, separator="/"): x.shape for p, x in leaves}


@pytest.mark.parametrize("image_shape", [(8, 8, 3), (9, 7, 1)])
@pytest.mark.parametrize("name", OPTIONS)
def test_a_model_returns_a_finite_logit_for_each_image_and_class(name, image_shape):
    images = jax.random.normal(jax.random.key(1), (5, *image_shape))
    logits = build(name, image_shape)(images)
    assert logits.shape == (5, 10)
    assert logits.dtype == jnp.float32
    assert jnp.isfinite(logits).all()


def test_the_parameters_of_the_mlp_have_these_paths_and_shapes():
    found = shapes(build("mlp"))
    assert {k: v for k, v in found.items() if k.endswith("kernel")} == {
        "embed/kernel": (192, 8),
        "hidden_0/kernel": (8, 8),
        "hidden_1/kernel": (8, 8),
        "head/kernel": (8, 10),
    }


def test_the_parameters_of_the_cnn_have_these_paths_and_shapes():
    found = shapes(build("cnn"))
    assert {k: v for k, v in found.items() if k.endswith("kernel")} == {
        "conv_0/kernel": (3, 3, 3, 4),
        "conv_1/kernel": (3, 3, 4, 4),
        "conv_2/kernel": (3, 3, 4, 6),
        "conv_3/kernel": (3, 3, 6, 6),
        "dense/kernel": (24, 8),
        "head/kernel": (8, 10),
    }


@pytest.mark.parametrize("name", OPTIONS)
def test_an_image_does_not_influence_the_logits_of_another(name):
    model = build(name)
    images = jax.random.normal(jax.random.key(1), (3, 8, 8, 3))
    alone = model(images[1:2])
    np.testing.assert_allclose(model(images)[1:2], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OPTIONS)
def test_options_are_what_a_configuration_has_to_set(name):
    assert set(models.options(name)) == set(OPTIONS[name])


def test_arguments_are_what_the_data_have_to_tell():
    for name in OPTIONS:
        assert models.arguments(name) == ("image_shape", "num_classes")
    # `channels` is an option of a CNN, but a property of a series.
    assert models.arguments("autoformer") == ("history", "horizon", "channels", "marks")
    assert "channels" in models.options("cnn")
    assert "channels" not in models.options("autoformer")
