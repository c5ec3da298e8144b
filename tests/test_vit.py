"""The vision transformer against its formula in NumPy, and in a run."""

import math

import jax
import numpy as np
import pytest
from flax import nnx
from runs import TINY, assert_same_arrays, rows

from experiments import configuration, models, run
from experiments.configs import quickstart

SMALL = {
    "patch": 4,
    "width": 12,
    "depth": 2,
    "heads": 3,
    "hidden": 20,
    "qkv_bias": True,
    "dropout": 0.0,
}


def build(image_shape=(8, 12, 3), num_classes=10, **options):
    arguments = {"image_shape": image_shape, "num_classes": num_classes}
    return models.build("vit", arguments, nnx.Rngs(0), **(SMALL | options))


def randomized(model):
    """`model` with all parameters random, biases and scales too."""
    rng = np.random.default_rng(0)
    draw = lambda x: (0.5 * rng.normal(size=x.shape)).astype(np.float32)
    nnx.update(model, jax.tree.map(draw, nnx.state(model, nnx.Param)))
    return model


def linear(p, x):
    return x @ p["kernel"] + p["bias"]


def norm(p, x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def attention(p, x, heads):
    """softmax(q k' / sqrt(size)) v of each head by itself, for one example [L, D]."""
    size = x.shape[-1] // heads
    parts = np.split(linear(p["qkv"], x), 3, axis=1)
    mixed = []
    for h in range(heads):
        q, k, v = (part[:, h * size : (h + 1) * size] for part in parts)
        weights = np.exp(q @ k.T / math.sqrt(size))
        mixed.append(weights / weights.sum(axis=1, keepdims=True) @ v)
    return linear(p["out"], np.concatenate(mixed, axis=1))


def logits(p, image, patch, depth, heads):
    height, width, _ = image.shape
    patches = [
        image[i : i + patch, j : j + patch].ravel()
        for i in range(0, height, patch)
        for j in range(0, width, patch)
    ]
    kernel = p["patch_embed"]["kernel"].reshape(-1, p["patch_embed"]["bias"].size)
    tokens = np.array(patches) @ kernel + p["patch_embed"]["bias"]
    x = np.concatenate([p["class_token"][0], tokens]) + p["positions"][0]
    gelu = np.vectorize(lambda t: t * (1 + math.erf(t / math.sqrt(2))) / 2)
    for i in range(depth):
        block = p[f"block_{i}"]
        x = x + attention(block["attention"], norm(block["attention_norm"], x), heads)
        hidden = gelu(linear(block["mlp_in"], norm(block["mlp_norm"], x)))
        x = x + linear(block["mlp_out"], hidden)
    return linear(p["head"], norm(p["norm"], x[0]))


def test_the_logits_are_those_of_the_formula():
    model = randomized(build())
    images = np.random.default_rng(1).normal(size=(3, 8, 12, 3)).astype(np.float32)
    wide = lambda x: np.asarray(x, np.float64)
    params = jax.tree.map(wide, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    expected = [logits(params, wide(image), 4, 2, 3) for image in images]
    np.testing.assert_allclose(
        nnx.jit(model.__class__.__call__)(model, images), expected, 2e-4, 2e-4
    )


def test_the_size_of_the_published_comparison():
    model = nnx.eval_shape(
        lambda: build(
            (32, 32, 3), patch=8, depth=6, heads=6, width=768, hidden=3072, qkv_bias=False
        )
    )
    state = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(state)) == 42_684_682
    assert state["block_5"]["attention"]["qkv"]["kernel"].shape == (768, 2304)
    assert "bias" not in state["block_5"]["attention"]["qkv"]
    assert state["block_5"]["mlp_in"]["kernel"].shape == (768, 3072)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"patch": 3}, "`patch` .* 8 x 12 pixels, got 3"), ({"heads": 5}, "`heads`.*=12, got 5")],
)
def test_sizes_that_do_not_divide_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        build(**options)


def vit_run(**overrides):
    config = quickstart.get_config()
    config.model = {"name": "vit", **SMALL, "depth": 1, "patch": 14, "dropout": 0.5}
    config.constraint.rules = ((r".*/attention/qkv/kernel", "orthogonal"), (".*", "free"))
    fields = {name: x for name, x in TINY.items() if not name.startswith("model.")}
    config.arms = fields.pop("arms")
    config.update_from_flattened_dict(fields | {"steps": 4, "checkpoint_every": 2} | overrides)
    (arm,) = configuration.arms(config).values()
    return arm


@pytest.mark.slow
def test_a_resumed_run_draws_the_same_dropout(tmp_path, one_device):
    whole = run.train(vit_run(), tmp_path / "whole")
    run.train(vit_run(steps=2), tmp_path / "parts")
    assert_same_arrays(run.train(vit_run(), tmp_path / "parts").params, whole.params)
    assert set(rows(tmp_path / "parts")[1:]) >= set(rows(tmp_path / "whole")[1:])


def test_sizes_that_do_not_fit_the_images_are_an_error_of_the_configuration(tmp_path):
    with pytest.raises(configuration.ConfigurationError, match=r"model\.name=vit: `patch` .* 28"):
        run.train(vit_run(**{"model.patch": 5}), tmp_path / "new")
    assert not (tmp_path / "new").exists()
