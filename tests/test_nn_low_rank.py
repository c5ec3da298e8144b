"""Flax NNX layers with factors against Flax's own layers with the product of the factors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from matrices_of import gaussian

import orthojax
import orthojax.nn
from orthojax.matrices import map_named, named


class Scaled(nnx.Linear):
    """Does more than its base class, so that a `LowRank` in its place would be wrong."""

    def __call__(self, inputs):
        return 2 * super().__call__(inputs)


class Einsum(nnx.Module):
    """A kernel that no `LowRank` is made of."""

    def __init__(self, rngs):
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (14, 10), jnp.float64))

    def __call__(self, inputs):
        return jnp.einsum("bi,io->bo", inputs, self.kernel[...])


def conv(*args, **options):
    return lambda **kw: nnx.Conv(*args, **options, **kw)


# Name: (layer, shape of its input, whether it is to multiply by the factors where they pay).
# Matrices of one shape, 15 x 12, so that one SVD is compiled.
LAYERS = {
    "linear": (lambda **kw: nnx.Linear(15, 12, **kw), (40, 15), True),
    "linear_wide": (lambda **kw: nnx.Linear(12, 15, use_bias=False, **kw), (2, 30, 12), True),
    "general": (lambda **kw: nnx.LinearGeneral(12, (3, 5), **kw), (40, 12), True),
    "axes": (lambda **kw: nnx.LinearGeneral((3, 5), 12, axis=(-1, 1), **kw), (40, 3, 2, 5), True),
    "attention": (
        lambda **kw: nnx.MultiHeadAttention(3, 12, qkv_features=15, decode=False, **kw),
        (9, 8, 12),
        True,
    ),
    "strides": (conv(3, 12, (5, 1), strides=(2, 1), padding="VALID"), (2, 8, 8, 3), True),
    "dilation": (
        conv(3, 12, (1, 5), kernel_dilation=2, padding="CIRCULAR", use_bias=False),
        (2, 8, 8, 3),
        True,
    ),
    "pointwise": (conv(15, 12, (1, 1)), (2, 8, 8, 15), True),
    "wide_conv": (conv(3, 15, (2, 2)), (2, 8, 8, 3), True),
    "line": (conv(5, 12, (3,)), (3, 17, 5), True),
    "grouped": (conv(6, 12, (5, 1), feature_group_count=2), (2, 8, 8, 6), False),
    "derived": (lambda **kw: Scaled(14, 10, **kw), (40, 14), False),
    "unknown": (lambda rngs, **_: Einsum(rngs), (40, 14), False),
}
RULES = [
    (".*/(line|axes)/kernel", orthojax.MatrixAxes((0, 1), 2)),
    (".*/general/kernel", orthojax.MatrixAxes(0, (1, 2))),
    (".*/kernel", "low_rank"),
    (".*", "dense"),
]


class Layers(nnx.Module):
    def __init__(self):
        kinds = {"param_dtype": jnp.float64, "rngs": nnx.Rngs(0)}
        self.layers = nnx.Dict({name: make(**kinds) for name, (make, _, _) in LAYERS.items()})

    def __call__(self, inputs):
        return {name: self.layers[name](x) for name, x in inputs.items()}


def split(model):
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    # Biases start at zero, which would hide them.
    params = map_named(
        lambda name, x: x if name.endswith("kernel") else jnp.asarray(gaussian(3, x.shape)),
        nnx.to_pure_dict(params),
    )
    return graphdef, params, rest


def converted(params, part, rules=RULES):
    """(cores, bases) with this part of the columns."""
    method = orthojax.OIALR(delay=0, every=1, rules=rules, rank=orthojax.ranks.fixed(part))
    return method.convert(params)[:2]


def apply_to(graphdef, rest):
    """Bound or dense params, inputs -> outputs."""

    def apply(bound, inputs):
        return orthojax.nn.low_rank(nnx.merge(graphdef, bound, rest, copy=True))(inputs)

    return apply


@pytest.fixture(scope="module")
def layers():
    """What `LAYERS` yield in factors and dense: outputs, and gradients for cores and kernels."""
    with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
        graphdef, params, rest = split(Layers())
        apply = apply_to(graphdef, rest)
        cores, bases = converted(params, 0.35)
        inputs = {name: jnp.asarray(gaussian(2, shape)) for name, (_, shape, _) in LAYERS.items()}

        def loss(params, bases):
            outputs = apply(orthojax.bind(params, bases), inputs)
            return sum(jnp.sum(jnp.sin(y)) for y in outputs.values()), outputs

        run = jax.jit(jax.value_and_grad(loss, has_aux=True))
        return {
            "apply": apply,
            "cores": cores,
            "bases": bases,
            "inputs": inputs,
            "factored": run(cores, bases),
            "dense": run(orthojax.materialize(cores, bases), {}),
        }


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_with_factors_is_the_layer_with_their_product(layers, name):
    (_, factored), _ = layers["factored"]
    (_, dense), _ = layers["dense"]
    assert factored[name].shape == dense[name].shape
    np.testing.assert_allclose(factored[name], dense[name], atol=1e-11)


def test_gradients_are_those_of_the_dense_kernels_between_the_bases(layers):
    got, dense = (named(layers[kind][1]) for kind in ("factored", "dense"))
    for name, leaf in got.items():
        expected = dense[name]
        if name in layers["bases"]:
            basis = layers["bases"][name]
            outputs = np.prod([basis.shape[i] for i in np.atleast_1d(basis.axes.output)])
            g = np.asarray(expected).reshape(-1, outputs)
            g = g if g.shape[0] >= outputs else g.T
            expected = np.asarray(basis.u).T @ g @ np.asarray(basis.v)
        np.testing.assert_allclose(leaf, expected, atol=1e-11)


@pytest.mark.parametrize("name", LAYERS)
def test_a_step_has_neither_svd_nor_dense_kernels_nor_their_gradients(layers, name):
    bases = {k: v for k, v in layers["bases"].items() if f"layers/{name}/" in k}
    assert bases

    def loss(params):
        x = {name: layers["inputs"][name]}
        return jnp.sum(layers["apply"](orthojax.bind(params, layers["bases"]), x)[name] ** 2)

    with jax.enable_x64(True):
        cores = {"layers": {name: layers["cores"]["layers"][name]}}
        full = layers["cores"]["layers"]
        gradient = jax.grad(lambda own: loss({"layers": full | own["layers"]}))
        text = str(jax.make_jaxpr(gradient)(cores))
    assert "svd" not in text
    for basis in bases.values():
        n, p = basis.matrix_shape
        shapes = [basis.shape, (n, p), (p, n)]
        found = any(f"f64[{','.join(map(str, shape))}]" in text for shape in shapes)
        assert found == (not LAYERS[name][2])


def test_where_factors_do_not_pay_the_model_is_what_it_was(x64):
    graphdef, params, rest = split(Layers())
    inputs = {name: jnp.asarray(gaussian(2, shape)) for name, (_, shape, _) in LAYERS.items()}
    apply = jax.jit(apply_to(graphdef, rest))
    cores, bases = converted(params, 1.0)
    got, expected = apply(orthojax.bind(cores, bases), inputs), apply(params, inputs)
    for name in LAYERS:
        np.testing.assert_allclose(got[name], expected[name], atol=1e-11)


def test_absorbed_factors_serve_the_same_outputs(layers):
    with jax.enable_x64(True):
        absorbed = orthojax.absorb(layers["cores"], layers["bases"])
        outputs = jax.jit(layers["apply"])(absorbed, layers["inputs"])
    (_, dense), _ = layers["dense"]
    for name in LAYERS:
        np.testing.assert_allclose(outputs[name], dense[name], atol=1e-11)


def test_a_layer_that_is_the_model_computes_in_its_dtype():
    layer = nnx.Linear(13, 11, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    graphdef, params, rest = nnx.split(layer, nnx.Param, ...)
    cores, bases = converted(nnx.to_pure_dict(params), 0.35, None)
    model = orthojax.nn.low_rank(nnx.merge(graphdef, orthojax.bind(cores, bases), rest))
    assert isinstance(model, orthojax.nn.LowRank)
    dense = nnx.merge(graphdef, orthojax.materialize(cores, bases), rest)
    y, expected = jax.jit(lambda x: (model(x), dense(x)))(gaussian(0, (40, 13), np.float32))
    assert y.dtype == expected.dtype == jnp.bfloat16
    np.testing.assert_allclose(*(np.asarray(a, np.float32) for a in (y, expected)), atol=0.05)


def mlp(rngs):
    kinds = {"param_dtype": jnp.float64, "rngs": rngs}
    return nnx.Sequential(nnx.Linear(8, 8, **kinds), jnp.tanh, nnx.Linear(8, 8, **kinds))


def test_refreshing_in_place_trains_as_the_functional_way(x64):
    x, y = jnp.asarray(gaussian(0, (20, 8))), jnp.asarray(gaussian(1, (20, 8)))
    tx = optax.adamw(0.02, weight_decay=0.1)
    method = orthojax.OIALR(delay=2, every=3, cutoff=0.5, compact=0.0)
    error = lambda model: jnp.mean((model(x) - y) ** 2)

    graphdef, params = nnx.split(mlp(nnx.Rngs(0)))
    params = nnx.to_pure_dict(params)

    @jax.jit
    def functional(params, bases, state):
        bound = lambda p: nnx.merge(graphdef, orthojax.bind(p, bases))
        loss, grads = jax.value_and_grad(lambda p: error(orthojax.nn.low_rank(bound(p))))(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    bases, state, expected = {}, tx.init(params), []
    for step in range(1, 8):
        params, state, loss = functional(params, bases, state)
        params, bases, state = method.refresh(step, params, bases, state, tx)
        expected.append(float(loss))

    model = mlp(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def in_place(model, optimizer):
        loss, grads = nnx.value_and_grad(error)(model)
        optimizer.update(model, grads)
        return loss

    losses = []
    for step in range(1, 8):
        losses.append(float(in_place(model, optimizer)))
        orthojax.nn.refresh(method, step, model, optimizer)
    np.testing.assert_allclose(losses, expected, rtol=1e-11)
    assert all(isinstance(model.layers[i], orthojax.nn.LowRank) for i in (0, 2))
    assert {name: basis.columns for name, basis in bases.items()} == {
        f"layers/{i}/kernel": model.layers[i].kernel.shape[0] for i in (0, 2)
    }


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda rngs: nnx.Linear(4, 4, rngs=rngs), "kernel"),
        (lambda rngs: nnx.Sequential(Scaled(4, 4, rngs=rngs)), "layers/0/kernel"),
        (
            lambda rngs: nnx.Sequential(nnx.Einsum("ab,bc->ac", (4, 4), rngs=rngs)),
            "layers/0/kernel",
        ),
    ],
)
def test_what_cannot_be_replaced_in_place_is_an_error_before_anything_changes(make, name):
    model = make(nnx.Rngs(0))
    before = jax.tree.map(jnp.array, nnx.state(model))
    optimizer = nnx.Optimizer(model, optax.sgd(0.1, 0.9), wrt=nnx.Param)
    method = orthojax.OIALR(delay=0, every=1)
    with pytest.raises(ValueError, match=rf"`method` chooses \['{name}'\].*nnx\.Sequential"):
        orthojax.nn.refresh(method, 0, model, optimizer)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(model), before)
