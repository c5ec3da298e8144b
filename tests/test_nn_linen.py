"""Linen's own modules with factors in the place of kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.errors import ScopeParamShapeError
from matrices_of import gaussian

import orthojax
import orthojax.nn
from orthojax.matrices import map_named, named

KINDS = {"param_dtype": jnp.float64}


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        attention = nn.MultiHeadDotProductAttention(3, qkv_features=15, name="attention", **KINDS)
        x = x + attention(x, x)
        h = nn.Dense(15, name="up", **KINDS)(inputs=x)
        return x + nn.Dense(12, use_bias=False, name="down", **KINDS)(jnp.tanh(h)), None


class Model(nn.Module):
    """Of matrices 15 x 12, and one 18 x 15."""

    @nn.compact
    def __call__(self, x):
        valid = nn.Conv(12, (5, 1), strides=(1, 2), padding="VALID", name="valid", **KINDS)
        circular = nn.Conv(12, (1, 5), padding="CIRCULAR", use_bias=False, name="circular", **KINDS)
        x = valid(x) + circular(x)[:, :4, :4]
        x = nn.Conv(15, (1, 1), name="pointwise", **KINDS)(x)
        x = nn.Conv(18, (3, 1), feature_group_count=3, name="grouped", **KINDS)(x)
        x = x[..., :12].reshape(x.shape[0], -1, 12)
        stack = nn.scan(
            nn.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=2
        )
        x, _ = stack(name="stack")(x, None)
        x = nn.DenseGeneral((3, 5), name="heads", **KINDS)(x)
        return nn.DenseGeneral(12, axis=(-1, -2), name="merge", **KINDS)(x)


AXES = orthojax.MatrixAxes
RULES = [
    ("stack/.*(query|key|value)/kernel", AXES(1, (2, 3))),
    ("stack/.*out/kernel", AXES((1, 2), 3)),
    ("stack/.*kernel", AXES(1, 2)),
    ("heads/kernel", AXES(0, (1, 2))),
    ("merge/kernel", AXES((0, 1), 2)),
    (".*kernel", "low_rank"),
    (".*", "dense"),
]
X = gaussian(0, (3, 8, 8, 3))


def apply(params):
    with orthojax.nn.linen_low_rank():
        return Model().apply({"params": params}, X)


@pytest.fixture(scope="module")
def model():
    """(params, cores, bases, gradients of both kinds, outputs of both kinds)."""
    with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
        params = jax.jit(Model().init)(jax.random.key(0), X)["params"]
        params = map_named(
            lambda name, x: x if "kernel" in name else jnp.asarray(gaussian(3, x.shape)), params
        )
        method = orthojax.OIALR(delay=0, every=1, rules=RULES, rank=orthojax.ranks.fixed(0.35))
        cores, bases, _ = method.convert(params)

        def loss(params, bases):
            y = apply(orthojax.bind(params, bases))
            return jnp.sum(jnp.sin(y)), y

        run = jax.jit(jax.value_and_grad(loss, has_aux=True))
        return {
            "cores": cores,
            "bases": bases,
            "loss": loss,
            "factored": run(cores, bases),
            "dense": run(orthojax.materialize(cores, bases), {}),
        }


def test_a_model_of_all_kinds_of_layers_is_that_with_the_dense_kernels(model):
    assert len(model["bases"]) == 4 + 6 + 2
    (_, factored), _ = model["factored"]
    (_, dense), _ = model["dense"]
    np.testing.assert_allclose(factored, dense, atol=1e-11)


def test_gradients_are_those_of_the_dense_kernels_between_the_bases(model):
    got, dense = (named(model[kind][1]) for kind in ("factored", "dense"))
    for name, leaf in got.items():
        expected = np.asarray(dense[name])
        if name in model["bases"]:
            basis = model["bases"][name]
            stacked = expected.shape[:1] if name.startswith("stack") else ()
            outputs = np.prod([basis.shape[i] for i in np.atleast_1d(basis.axes.output)])
            g = expected.reshape(*stacked, -1, outputs)
            g = g if g.shape[-2] >= outputs else np.swapaxes(g, -1, -2)
            u, v = np.asarray(basis.u), np.asarray(basis.v)
            expected = np.swapaxes(u, -1, -2) @ g @ v
        np.testing.assert_allclose(leaf, expected, atol=1e-11)


def test_a_step_has_neither_svd_nor_dense_kernels_nor_their_gradients(model):
    with jax.enable_x64(True):
        gradient = jax.grad(lambda cores: model["loss"](cores, model["bases"])[0])
        text = str(jax.make_jaxpr(gradient)(model["cores"]))
    assert "svd" not in text
    for name, basis in model["bases"].items():
        n, p = basis.matrix_shape
        shapes = [basis.shape, basis.shape[name.startswith("stack") :], (n, p), (p, n)]
        found = any(f"f64[{','.join(map(str, shape))}]" in text for shape in shapes)
        assert found == (name == "grouped/kernel"), name


def test_absorbed_factors_serve_the_same_outputs(model):
    with jax.enable_x64(True):
        y = jax.jit(apply)(orthojax.absorb(model["cores"], model["bases"]))
    (_, dense), _ = model["dense"]
    np.testing.assert_allclose(y, dense, atol=1e-11)


def test_a_layer_computes_in_its_dtype():
    module = nn.Conv(13, (3, 2))
    x = gaussian(0, (2, 8, 8, 9), np.float32)
    params = module.init(jax.random.key(0), x)["params"]
    method = orthojax.OIALR(delay=0, every=1, rank=orthojax.ranks.fixed(0.35))
    cores, bases, _ = method.convert(params)
    half = module.clone(dtype=jnp.bfloat16)

    @jax.jit
    def run(cores, bases):
        with orthojax.nn.linen_low_rank():
            y = half.apply({"params": orthojax.bind(cores, bases)}, x)
        return y, half.apply({"params": orthojax.materialize(cores, bases)}, x)

    y, expected = run(cores, bases)
    assert y.dtype == expected.dtype == jnp.bfloat16
    np.testing.assert_allclose(*(np.asarray(a, np.float32) for a in (y, expected)), atol=0.05)


def test_what_derives_from_a_layer_is_not_taken_for_it():
    class Twice(nn.Dense):
        @nn.compact
        def __call__(self, x):
            return 2 * super().__call__(x)

    module, x = Twice(9), jnp.ones((40, 9))
    params = module.init(jax.random.key(0), x)["params"]
    method = orthojax.OIALR(delay=0, every=1, rank=orthojax.ranks.fixed(0.35))
    cores, bases, _ = method.convert(params)
    not_understood = pytest.raises((TypeError, ScopeParamShapeError), match=r"Factored|kernel")
    with orthojax.nn.linen_low_rank(), not_understood:
        module.apply({"params": orthojax.bind(cores, bases)}, x)
    with orthojax.nn.linen_low_rank():
        module.apply({"params": orthojax.materialize(cores, bases)}, x)
