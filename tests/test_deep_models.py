"""Models of any depth: their layers one by one, what they start from, models of several seeds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from matrices_of import defect, gaussian

from experiments import models
from experiments.models import layers, vit

IMAGE = (8, 8, 3)
ARGUMENTS = {"image_shape": IMAGE, "num_classes": 10}
OPTIONS = {
    "deep_mlp": {
        "width": 6,
        "depth": 4,
        "activation": "tanh",
        "norm": "batch",
        "bias": True,
        "gain": 0.8,
        "gain_exponent": 0.5,
        "shaping": "none",
        "kernel_init": "orthogonal",
        "ends_init": "orthogonal",
    },
    "deep_blocks": {
        "width": 6,
        "depth": 3,
        "block": "block",
        "k": 4,
        "folds": 0,
        "sharing": "none",
        "ends_init": "lecun_normal",
    },
    "deep_cnn": {
        "width": 4,
        "depth": 3,
        "activation": "relu",
        "norm": "batch",
        "residual": True,
        "weights": "he_normal",
        "remat": "all",
    },
    "deep_transformer": {
        "patch": 4,
        "width": 6,
        "depth": 3,
        "heads": 2,
        "hidden": 10,
        "kernel_init": "orthogonal",
        "multiplier": 0.5,
        "placement": "pre",
        "remat": "none",
    },
}
# The kernels in `hidden/layers`, all else is in front of them or behind.
KERNELS = {
    "deep_mlp": {"kernel": (3, 6, 6)},
    "deep_blocks": {"inner/kernel": (3, 6, 6), "outer/kernel": (3, 6, 6)},
    "deep_cnn": {"inner/kernel": (3, 3, 3, 4, 4), "outer/kernel": (3, 3, 3, 4, 4)},
    "deep_transformer": {
        **dict.fromkeys(("query/kernel", "key/kernel", "value/kernel", "out/kernel"), (3, 6, 6)),
        "mlp_in/kernel": (3, 6, 10),
        "mlp_out/kernel": (3, 10, 6),
    },
}


def build(name, seed=0, **options):
    options = OPTIONS[name] | options
    make = lambda key: models.build(name, ARGUMENTS, nnx.Rngs(key), **options)
    return nnx.jit(make)(jax.random.key(seed))


def named(state):
    leaves = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(state))
    return {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in leaves}


images = gaussian(0, (5, *IMAGE), np.float32)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_model_has_the_options_and_stacked_kernels_that_it_tells_of(name):
    assert set(models.options(name)) == set(OPTIONS[name])
    model = build(name)
    found = {k: x.shape for k, x in named(nnx.state(model, nnx.Param)).items()}
    start = "hidden/layers/"
    hidden = {k.removeprefix(start): x for k, x in found.items() if k.startswith(start)}
    assert {k: x for k, x in hidden.items() if k.endswith("kernel")} == KERNELS[name]
    logits = nnx.jit(lambda model: model(images))(model)
    assert logits.shape == (5, 10)
    assert logits.dtype == jnp.float32


@pytest.mark.parametrize("name", OPTIONS)
def test_models_of_several_seeds_are_the_models_of_each(name):
    def params(seed):
        rngs = nnx.Rngs(jax.random.key(seed))
        return nnx.state(models.build(name, ARGUMENTS, rngs, **OPTIONS[name]), nnx.Param)

    both = jax.jit(jax.vmap(params))(jnp.arange(2))
    for seed in range(2):
        alone = named(nnx.state(build(name, seed), nnx.Param))
        for path, values in named(both).items():
            np.testing.assert_allclose(values[seed], alone[path], atol=1e-5, err_msg=path)


@pytest.mark.parametrize("name", OPTIONS)
def test_hidden_layers_alone_one_after_another_are_the_stack(name):
    model = build(name)
    model.eval()
    x = gaussian(1, {"deep_cnn": (2, 4, 4, 4), "deep_transformer": (2, 4, 6)}.get(name, (2, 6)))

    @nnx.jit
    def both(model, x):
        y = x
        for i in range(OPTIONS[name]["depth"] - (name == "deep_mlp")):
            y = model.hidden.layer(i)(y)
        return y, model.hidden(x)

    one_by_one, stacked = both(model, x.astype(np.float32))
    np.testing.assert_allclose(one_by_one, stacked, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", ["batch", "batch_no_mean", "none"])
def test_the_mlp_is_its_formula(norm):
    model = build("deep_mlp", norm=norm)
    p = {k: np.asarray(x, np.float64) for k, x in named(nnx.state(model, nnx.Param)).items()}
    x = np.float64(images.reshape(5, -1))
    kernels = [p["embed/kernel"], *p["hidden/layers/kernel"]]
    gain = OPTIONS["deep_mlp"]["gain"]
    for i, kernel in enumerate(kernels):  # All biases are 0.
        x = x @ kernel
        if norm == "batch":
            x = x - x.mean(axis=0)
        if norm != "none":
            x = x / np.sqrt(np.mean(x**2, axis=0) + 1e-5)
        x = np.tanh(gain * x / np.sqrt(i + 1))
    outputs = nnx.jit(lambda model: model(images))(model)
    np.testing.assert_allclose(outputs, x @ p["head/kernel"], rtol=1e-3, atol=1e-4)


def test_statistics_of_all_layers_move_in_training_and_stay_in_evaluation():
    model = build("deep_mlp")
    call = nnx.jit(lambda model: model(images))
    call(model)
    moved = named(nnx.state(model, nnx.BatchStat))
    assert moved["hidden/layers/norm/mean"].shape == (3, 6)
    assert all(np.abs(x).min(axis=-1).max() > 0 for x in moved.values())
    model.eval()
    call(model)
    for name, value in named(nnx.state(model, nnx.BatchStat)).items():
        np.testing.assert_array_equal(value, moved[name], err_msg=name)


def test_ends_and_hidden_kernels_start_as_chosen():
    p = named(nnx.state(build("deep_mlp"), nnx.Param))
    for kernel in (p["embed/kernel"], p["hidden/layers/kernel"], p["head/kernel"].mT):
        assert defect(kernel) < 1e-5
    options = {"kernel_init": "xavier_normal", "ends_init": "lecun_normal", "width": 60}
    p = named(nnx.state(build("deep_mlp", **options), nnx.Param))
    np.testing.assert_allclose(p["embed/kernel"].std(), 192**-0.5, rtol=0.05)
    np.testing.assert_allclose(p["hidden/layers/kernel"].std(), 5 / 3 * 60**-0.5, rtol=0.05)


@pytest.mark.parametrize(
    ("activation", "shaping", "cosine"), [("relu", "tat", 0.9), ("tanh", "dks", 0.0)]
)
def test_a_shaped_network_keeps_images_apart_and_their_mean_square(activation, shaping, cosine):
    """`cosine`: what the kernel map of a wide network says of two orthogonal images."""
    shaped = {"activation": activation, "shaping": shaping, "norm": "none"}
    shaped |= {"gain": 1.0, "gain_exponent": 0.0}
    options = OPTIONS["deep_mlp"] | shaped | {"width": 100, "depth": 50}
    x = np.zeros((2, *IMAGE), np.float32)  # Neither has a pixel of the other, nor its scale.
    x[0, :4], x[1, 4:] = images[0, :4], 9 * images[1, 4:]

    @jax.jit
    @jax.vmap
    def features(key):
        return models.build("deep_mlp", ARGUMENTS, nnx.Rngs(key), **options).features(x)

    y = np.asarray(features(jax.random.split(jax.random.key(0), 20)))
    np.testing.assert_allclose(np.mean(y**2), 1, atol=0.25)
    y = y / np.linalg.norm(y, axis=-1, keepdims=True)
    np.testing.assert_allclose(np.mean(np.sum(y[:, 0] * y[:, 1], axis=-1)), cosine, atol=0.06)


def test_activations_are_tailored_once_and_where_it_is_possible():
    assert layers.tailored("tat", "relu", 50) is layers.tailored("tat", "relu", 50)
    np.testing.assert_allclose(
        layers.tailored("tat", "relu", 5)(np.array([-1.0, 1.0])), [0, 2**0.5]
    )
    with pytest.raises(ValueError, match="`shaping` dks is for smooth"):
        layers.tailored("dks", "relu", 50)


@pytest.mark.parametrize("block", ["fold", "isometric_dense"])
def test_isometric_blocks_are_isometric_and_share_as_told(block):
    options = {"block": block, "folds": 2 if block == "fold" else 0}
    x = gaussian(1, (6,), np.float32)
    for sharing in ("none", "initial", "tied"):
        model = build("deep_blocks", sharing=sharing, **options)
        assert defect(nnx.jit(lambda model: jax.jacfwd(model.hidden)(x))(model)) < 1e-5
        kernels = named(nnx.state(model, nnx.Param))["hidden/layers/kernel"]
        assert kernels.ndim == (2 if sharing == "tied" else 3)
        if sharing != "tied":
            assert np.array_equal(kernels[0], kernels[1]) == (sharing == "initial")


@pytest.mark.parametrize("block", models.BLOCKS)
def test_blocks_give_finite_logits(block):
    logits = nnx.jit(lambda model: model(images))(build("deep_blocks", block=block))
    assert logits.shape == (5, 10)
    assert np.isfinite(logits).all()


def test_convolutions_start_from_what_their_weights_promise():
    x = gaussian(1, (1, 5, 4, 4), np.float32)

    @nnx.jit
    def ends(model):
        return model.hidden.layer(0)(x), model.hidden(x)

    def start(weights, residual):
        return build("deep_cnn", weights=weights, norm="none", residual=residual)

    for weights in ("fixup", "rezero"):  # The identity.
        np.testing.assert_array_equal(ends(start(weights, True))[1], x)
    first, last = ends(start("shared", False))  # A projection, the same in each block.
    np.testing.assert_allclose(first, last, atol=1e-5)
    first, last = ends(start("projection", True))  # Nothing grows at any position.
    lengths = [np.linalg.norm(y, axis=-1) for y in (x, first, last)]
    assert (lengths[0] >= lengths[1] - 1e-5).all()
    assert (lengths[1] >= lengths[2] - 1e-5).all()
    kernel = start("delta_orthogonal", True).hidden.layers.inner.kernel[...]
    assert defect(kernel[:, 1, 1]) < 1e-5
    assert np.count_nonzero(kernel) == kernel[:, 1, 1].size


def test_a_block_of_the_transformer_is_that_of_the_vit():
    block = build("deep_transformer", multiplier=1.0).hidden.layer(1)
    other = vit.Block(6, 2, 10, True, 0.0, nnx.Rngs(0))
    parts = [getattr(block, name).kernel[...] for name in ("query", "key", "value")]
    other.attention.qkv.kernel[...] = jnp.concatenate(parts, axis=1)
    other.attention.out.kernel[...] = block.out.kernel[...]
    other.mlp_in.kernel[...] = block.mlp_in.kernel[...]
    other.mlp_out.kernel[...] = block.mlp_out.kernel[...]
    x = gaussian(1, (2, 5, 6), np.float32)
    np.testing.assert_allclose(block(x), other(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("deep_mlp", {"depth": 1}, "`depth` must be at least 2, got 1"),
        ("deep_blocks", {"sharing": "tied"}, "`sharing` is for fold and isometric_dense"),
        ("deep_blocks", {"k": 2}, "got k=2"),
        ("deep_cnn", {"weights": "shared"}, "`weights` shared need residual=False, got True"),
        ("deep_transformer", {"patch": 3}, "`patch` must divide"),
        ("deep_transformer", {"heads": 4}, "`heads` must divide"),
    ],
)
def test_options_that_do_not_go_together_are_told(name, options, message):
    with pytest.raises(ValueError, match=message):
        build(name, **options)
