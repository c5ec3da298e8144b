"""Models of other papers: as many parameters as published, and, of equal weights, equal outputs."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments import models
from experiments.models import layers

VIT = {"patch": 16, "depth": 12, "qkv_bias": True, "dropout": 0.0}
VIT_B = VIT | {"width": 768, "heads": 12, "hidden": 3072}
RESNET = {
    "channels": (64, 128, 256, 512),
    "depths": (3, 4, 6, 3),
    "bottleneck": True,
    "stem": "7x7",
    "pool_shortcut": False,
    "squeeze": 0.0,
    "branch_scale": 1.0,
    "drop_path": 0.0,
    "dropout": 0.0,
}
RESNET_18 = RESNET | {"depths": (2, 2, 2, 2), "bottleneck": False}
RESNET_RS = {"depths": (3, 4, 23, 3), "stem": "deep", "pool_shortcut": True, "squeeze": 0.25}
RESNET_RS_101 = RESNET | RESNET_RS
MIXER = {"patch": 16, "dropout": 0.0, "drop_path": 0.0}
MIXER_S = MIXER | {"width": 512, "depth": 8, "token_hidden": 256, "hidden": 2048}
MIXER_B = MIXER | {"width": 768, "depth": 12, "token_hidden": 384, "hidden": 3072}
CONVNEXT_T = {
    "channels": (96, 192, 384, 768),
    "depths": (3, 3, 9, 3),
    "patch": 4,
    "layer_scale": 1e-6,
    "drop_path": 0.0,
}
LSTM_MEDIUM = {"width": 650, "depth": 2, "dropout": 0.0}


def make(name, options, pixels=224, classes=1000, vocabulary=10_000):
    arguments = {"image_shape": (pixels, pixels, 3), "num_classes": classes}
    rngs = nnx.Rngs(params=0, dropout=1)
    return models.build(name, arguments | {"vocabulary": vocabulary}, rngs, **options)


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        # Those of timm 1.0.31, torchvision 0.28, at 224 pixels and 1,000 classes.
        pytest.param("vit", VIT | {"width": 192, "heads": 3, "hidden": 768}, 5_717_416, id="Ti/16"),
        pytest.param("vit", VIT | {"width": 384, "heads": 6, "hidden": 1536}, 22_050_664, id="S"),
        pytest.param("vit", VIT_B, 86_567_656, id="ViT-B/16"),
        pytest.param("imagenet_resnet", RESNET_18, 11_689_512, id="ResNet-18"),
        pytest.param("imagenet_resnet", RESNET, 25_557_032, id="ResNet-50"),
        pytest.param("imagenet_resnet", RESNET_RS_101, 63_618_696, id="ResNet-RS 101"),
        pytest.param("mixer", MIXER_S, 18_528_264, id="Mixer-S/16"),
        pytest.param("mixer", MIXER_B, 59_880_472, id="Mixer-B/16"),
        pytest.param("convnext", CONVNEXT_T, 28_589_128, id="ConvNeXt-T"),
        # Embedding, head and two layers of one bias; PyTorch's have two, which are added.
        pytest.param("token_lstm", LSTM_MEDIUM, 19_775_200, id="LSTM"),
    ],
)
def test_parameters_are_as_many_as_published(name, options, parameters, monkeypatch):
    # The counters of random numbers, where traced, take time with the square of the model's size.
    monkeypatch.setattr(nnx.RngStream, "__call__", lambda stream: stream.key[...])
    params = nnx.state(nnx.eval_shape(lambda: make(name, options)), nnx.Param)
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(params)) == parameters


TINY = {
    "imagenet_resnet": RESNET_RS_101 | {"channels": (4, 6), "depths": (1, 2), "squeeze": 0.5},
    "mixer": MIXER | {"patch": 4, "width": 6, "depth": 2, "token_hidden": 5, "hidden": 7},
    "convnext": CONVNEXT_T | {"channels": (4, 6), "depths": (1, 1), "layer_scale": 1.0},
    "row_lstm": {"width": 5, "depth": 2, "dropout": 0.0},
}


@pytest.mark.parametrize("name", TINY)
def test_a_logit_for_each_image_and_class(name):
    model = lambda images: make(name, TINY[name], pixels=8, classes=3)(images)
    logits = jax.eval_shape(model, jax.ShapeDtypeStruct((6, 8, 8, 3), jnp.float32))
    assert (logits.shape, logits.dtype) == ((6, 3), jnp.float32)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in TINY if name != "mixer"]


@pytest.mark.parametrize("name", ["mixer", *SLOW])
def test_what_is_dropped_in_training_is_there_in_evaluation(name):
    @jax.jit
    def run(images):
        plain = make(name, TINY[name], pixels=8, classes=3)
        rates = {option: 0.9 for option in ("dropout", "drop_path") if option in TINY[name]}
        model = make(name, TINY[name] | rates, pixels=8, classes=3)
        trained = model(images)
        nnx.update(model, nnx.state(plain, nnx.BatchStat))
        plain.eval()
        model.eval()
        return plain(images), model(images), trained

    images = np.random.default_rng(0).normal(size=(6, 8, 8, 3)).astype(np.float32)
    with jax.default_prng_impl("unsafe_rbg"):  # Compiles in less time.
        plain, evaluated, trained = run(images)
    assert np.isfinite(trained).all()
    np.testing.assert_allclose(evaluated, plain, atol=1e-6)
    assert np.abs(trained - plain).max() > 1e-3


def test_a_path_is_dropped_for_an_example_as_a_whole():
    drop = jax.jit(lambda x: layers.drop_path(0.5, 3, nnx.Rngs(0))(x))
    dropped = np.asarray(drop(np.ones((64, 2, 3), np.float32)))
    np.testing.assert_array_equal(dropped, np.broadcast_to(dropped[:, :1, :1], dropped.shape))
    assert set(np.unique(dropped)) == {0, 2}
    assert layers.drop_path(0.0, 3, nnx.Rngs(0)) is layers.identity


def test_rates_grow_linearly_over_the_blocks():
    options = TINY["mixer"] | {"depth": 5, "drop_path": 0.2}
    model = nnx.eval_shape(lambda: make("mixer", options, pixels=8))
    assert model.block_0.drop_path is layers.identity
    rates = [getattr(model, f"block_{i}").drop_path.rate for i in range(1, 5)]
    np.testing.assert_allclose(rates, [0.05, 0.1, 0.15, 0.2])


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("imagenet_resnet", {"depths": (1,)}, r"`depths` \(1,\) .* \(4, 6\)"),
        ("convnext", {"depths": (1,)}, r"`depths` \(1,\) .* \(4, 6\)"),
        ("convnext", {"patch": 3}, "multiples of 6 pixels, got 8 x 8"),
        ("mixer", {"patch": 3}, "`patch` .* 8 x 8 pixels, got 3"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(name, options, words):
    with pytest.raises(ValueError, match=words):
        make(name, TINY[name] | options, pixels=8)


# Of equal weights the outputs of PyTorch's models.

BLOCK = (r"^blocks\.(\d+)", r"block_\1")


def counted(pattern, depths):
    """The rule by which block b of stage s, from `pattern`, is a block counted through stages."""
    first = 0 if "stages" in pattern else 1
    return pattern, lambda m: f"block_{sum(depths[: int(m[1]) - first]) + int(m[2])}"


def from_one(pattern, name):
    return pattern, lambda m: f".{name}_{int(m[1]) - 1}"


IN_BLOCKS = [
    (r"\.downsample\.0", ".shortcut"),
    (r"\.downsample\.1", ".shortcut_norm"),
    from_one(r"(?<=\d)\.conv(\d)", "conv"),
    from_one(r"(?<=\d)\.bn(\d)", "norm"),
    (r"^fc", "head"),
]
RULES = {
    "vit": [
        BLOCK,
        (r"attn\.qkv", "attention.qkv"),
        (r"attn\.proj", "attention.out"),
        ("norm1", "attention_norm"),
        ("norm2", "mlp_norm"),
        (r"mlp\.fc1", "mlp_in"),
        (r"mlp\.fc2", "mlp_out"),
        (r"patch_embed\.proj", "patch_embed"),
        ("cls_token", "class_token"),
        ("pos_embed", "positions"),
    ],
    "resnet": [
        counted(r"^layer(\d)\.(\d+)", RESNET["depths"]),
        ("^conv1", "stem_0"),
        ("^bn1", "stem_norm_0"),
        *IN_BLOCKS,
    ],
    "resnet_rs": [
        counted(r"^layer(\d)\.(\d+)", RESNET_RS_101["depths"]),
        (r"^conv1\.0", "stem_0"),
        (r"^conv1\.1", "stem_norm_0"),
        (r"^conv1\.3", "stem_1"),
        (r"^conv1\.4", "stem_norm_1"),
        (r"^conv1\.6", "stem_2"),
        ("^bn1", "stem_norm_2"),
        (r"^maxpool\.0", "stem_3"),
        (r"^maxpool\.1", "stem_norm_3"),
        (r"se\.fc1", "squeeze.reduce"),
        (r"se\.fc2", "squeeze.expand"),
        (r"downsample\.1", "downsample.0"),  # What is 0 there is the mean.
        (r"downsample\.2", "downsample.1"),
        *IN_BLOCKS,
    ],
    "mixer": [
        BLOCK,
        (r"stem\.proj", "patch_embed"),
        ("norm1", "token_norm"),
        ("norm2", "mlp_norm"),
        (r"mlp_tokens\.fc1", "token_in"),
        (r"mlp_tokens\.fc2", "token_out"),
        (r"mlp_channels\.fc1", "mlp_in"),
        (r"mlp_channels\.fc2", "mlp_out"),
    ],
    "convnext": [
        (r"^stages\.(\d)\.downsample\.0", r"down_norm_\1"),
        (r"^stages\.(\d)\.downsample\.1", r"down_\1"),
        counted(r"^stages\.(\d)\.blocks\.(\d)", CONVNEXT_T["depths"]),
        (r"^stem\.0", "stem"),
        (r"^stem\.1", "stem_norm"),
        (r"^head\.norm", "norm"),
        (r"^head\.fc", "head"),
        ("conv_dw", "conv"),
        (r"mlp\.fc1", "mlp_in"),
        (r"mlp\.fc2", "mlp_out"),
        ("gamma", "layer_scale"),
    ],
    "lstm": [
        (r"lstm\.weight_ih_l(\d)", r"layer_\1.cell.dense_i.weight"),
        (r"lstm\.weight_hh_l(\d)", r"layer_\1.cell.dense_h.weight"),
        (r"lstm\.bias_hh_l(\d)", r"layer_\1.cell.dense_h.bias"),
        (r"embed\.weight", "embed.embedding"),
    ],
}
LEAVES = {"running_mean": "mean", "running_var": "var"}


def drawn(name, shape, rng):
    """A random value of PyTorch's parameter `name`, such that outputs neither vanish nor grow."""
    if "bias_ih" in name:  # The second bias of a layer.
        return np.zeros(shape, np.float32)
    if len(shape) > 1:
        scale = 1.0 if "embed.weight" in name else math.prod(shape[1:]) ** -0.5
        return scale * rng.standard_normal(shape, np.float32)
    if name.endswith(("weight", "gamma", "running_var")):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    return 0.1 * rng.standard_normal(shape, np.float32)


def carried(name, value, rules):
    """(path, value) in the Flax model of PyTorch's parameter `name`."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    *path, leaf = name.split(".")
    if leaf == "weight":
        leaf = "kernel" if value.ndim > 1 else "scale"
        value = value.T if value.ndim < 4 else value.transpose(2, 3, 1, 0)
    if "squeeze" in path:  # A 1x1 convolution of one position, and here a matrix.
        value = value.reshape(value.shape[-2:] if leaf == "kernel" else -1)
    return (*path, LEAVES.get(leaf, leaf)), value


def theirs(source, pixels):
    """PyTorch's model without arrays, from "library:name"."""
    torch = pytest.importorskip("torch")
    library, name = source.split(":")
    with torch.device("meta"):
        if library == "torchvision":
            return pytest.importorskip("torchvision").models.get_model(name, weights=None)
        if library == "timm":
            size = {"img_size": pixels} if "16" in name else {}
            return pytest.importorskip("timm").create_model(name, **size)

        class LSTM(torch.nn.Module):
            def __init__(self, width, depth, vocabulary):
                super().__init__()
                self.embed = torch.nn.Embedding(vocabulary, width)
                self.lstm = torch.nn.LSTM(width, width, depth, batch_first=True)
                self.head = torch.nn.Linear(width, vocabulary)

            def forward(self, symbols):
                return self.head(self.lstm(self.embed(symbols))[0])

        return LSTM(LSTM_MEDIUM["width"], LSTM_MEDIUM["depth"], 50)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "source", "rules", "pixels"),
    [
        ("vit", VIT_B, "timm:vit_base_patch16_224", "vit", 32),
        # 40 pixels: odd numbers of positions have to be halved.
        ("imagenet_resnet", RESNET, "torchvision:resnet50", "resnet", 40),
        ("imagenet_resnet", RESNET_RS_101, "timm:resnetrs101", "resnet_rs", 40),
        ("mixer", MIXER_B, "timm:mixer_b16_224", "mixer", 32),
        ("convnext", CONVNEXT_T, "timm:convnext_tiny", "convnext", 32),
        ("token_lstm", LSTM_MEDIUM, "torch:LSTM", "lstm", 0),
    ],
)
def test_outputs_are_those_of_pytorch(name, options, source, rules, pixels):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    other = theirs(source, pixels).eval()
    counts = {key: torch.zeros((), dtype=torch.int64) for key in other.state_dict()}
    values = {
        key: drawn(key, tuple(tensor.shape), rng)
        for key, tensor in other.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    tensors = {key: torch.from_numpy(value) for key, value in values.items()}
    other.load_state_dict(counts | tensors, assign=True)
    flat = dict(carried(k, v, RULES[rules]) for k, v in values.items() if "bias_ih" not in k)

    if name == "token_lstm":
        inputs = rng.integers(0, 50, (2, 7))
        given = torch.from_numpy(inputs)
    else:
        inputs = rng.standard_normal((2, pixels, pixels, 3), np.float32)
        given = torch.from_numpy(inputs.transpose(0, 3, 1, 2).copy())

    @jax.jit
    def logits(flat, inputs):
        model = make(name, options, pixels=pixels, vocabulary=50)
        state = nnx.state(model, (nnx.Param, nnx.BatchStat))
        own = {path: variable.shape for path, variable in nnx.to_flat_state(state)}
        assert own == {path: value.shape for path, value in flat.items()}
        for path, variable in nnx.to_flat_state(state):
            variable.set_value(flat[path])
        nnx.update(model, state)
        model.eval()
        return model(inputs)

    with torch.no_grad():
        expected = other(given).numpy()
    found = np.asarray(logits(flat, inputs))
    size = np.abs(expected).max()
    assert 0.1 < expected.std() < 1e3
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * size)  # float32
