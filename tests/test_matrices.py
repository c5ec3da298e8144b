import subprocess
import sys

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.core import freeze
from matrices_of import gaussian

import orthojax
from orthojax.matrices import MatrixAxes, Views, default_axes, label_by_path, path_name

VIEWS = [
    ((4, 3), MatrixAxes(0, 1), (4, 3)),
    ((3, 4), MatrixAxes(0, 1), (4, 3)),
    ((3, 3, 2, 5), MatrixAxes((0, 1, 2), 3), (18, 5)),
    ((8, 2, 3), MatrixAxes(0, (1, 2)), (8, 6)),
    ((2, 3, 8), MatrixAxes((0, 1), 2), (8, 6)),
    ((8, 2, 3), MatrixAxes(0, 2), (2, 8, 3)),
    ((5, 3, 4), MatrixAxes(-2, -1), (5, 4, 3)),
    ((2, 5, 3, 4), MatrixAxes(-2, -1), (2, 5, 4, 3)),
    ((4, 6), MatrixAxes(0, 1, blocks=3), (3, 4, 2)),
    ((5, 2, 6), MatrixAxes(-2, -1, blocks=2), (5, 2, 3, 2)),
    ((6, 4), MatrixAxes(1, 0, blocks=2), (2, 4, 3)),
]


@pytest.mark.parametrize(("shape", "axes", "view"), VIEWS)
def test_a_view_is_tall_and_has_an_inverse(shape, axes, view):
    x = gaussian(0, shape, np.float32)
    assert axes.view(x).shape == view
    np.testing.assert_array_equal(axes.unview(axes.view(x), shape), x)


def test_the_view_of_an_attention_kernel_is_the_matrix_that_it_applies():
    x, kernel = gaussian(0, (8,)), gaussian(1, (8, 2, 3))
    matrix = MatrixAxes(0, (1, 2)).view(kernel)
    np.testing.assert_allclose(x @ matrix, np.einsum("e,ehd->hd", x, kernel).reshape(-1), atol=1e-6)


def test_blocks_are_matrices_side_by_side():
    kernel, stack = gaussian(0, (4, 6), np.float32), gaussian(1, (5, 4, 6), np.float32)
    blocks = MatrixAxes(0, 1, blocks=3).view(kernel)
    np.testing.assert_array_equal(blocks, np.stack(np.split(kernel, 3, axis=1)))
    axes = MatrixAxes(-2, -1, blocks=3)
    np.testing.assert_array_equal(axes.view(stack)[:, 1], stack[:, :, 2:4])
    assert axes.batch_shape((5, 4, 6)) == (5, 3)
    assert axes.matrix_shape((5, 4, 6)) == (4, 2)
    with pytest.raises(ValueError, match=r"`blocks` .* axis 1 of shape \(4, 6\); got 4"):
        MatrixAxes(0, 1, blocks=4).view(kernel)


def test_blocks_of_a_kernel_are_trained_to_be_orthonormal():
    axes = MatrixAxes(0, 1, blocks=3)
    tx = orthojax.orthogonal(optax.adam(0.1), rules=[("qkv", axes), (".*", "free")])
    params = {"qkv": jnp.asarray(gaussian(0, (4, 12), np.float32)), "bias": jnp.ones(3)}
    params = trained(params, lambda p: jnp.sum(jnp.sin(p["qkv"])) + jnp.sum(p["bias"] ** 2), tx)
    assert orthojax.orthogonality_error(params["qkv"], axes) < 1e-6
    assert orthojax.orthogonality_error(params["qkv"]) > 0.1


@pytest.mark.parametrize("axes", [MatrixAxes(0, 0), MatrixAxes(0, 2), MatrixAxes((), 1)])
def test_impossible_axes_are_an_error_that_shows_them(axes):
    with pytest.raises(ValueError, match=r"`MatrixAxes`.*shape \(4, 3\)"):
        axes.view(jnp.ones((4, 3)))


class Attention(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.MultiHeadAttention(2, 8, rngs=rngs, decode=False)])
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(self.layers[0](x))


class Dense(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, x):
        return flax.linen.Dense(3, name="head")(flax.linen.Dense(8, name="hidden")(x))


def linen_params():
    return Dense().init(jax.random.key(0), jnp.ones((1, 8)))["params"]


def names(tree):
    return [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def test_paths_read_the_same_in_linen_frozen_dict_and_nnx():
    expected = ["head/bias", "head/kernel", "hidden/bias", "hidden/kernel"]
    assert names(linen_params()) == names(freeze(linen_params())) == expected
    state = nnx.state(Attention(nnx.Rngs(0)), nnx.Param)
    assert {"head/kernel", "layers/0/query/kernel", "layers/0/out/bias"} <= set(names(state))


def test_the_first_matching_rule_wins_and_it_matches_the_whole_path():
    label = label_by_path([("head/.*", "a"), ("kernel", "never"), (".*kernel", "b"), (".*", "c")])
    assert label(linen_params()) == {
        "head": {"bias": "a", "kernel": "a"},
        "hidden": {"bias": "c", "kernel": "b"},
    }


def test_a_leaf_without_a_rule_is_an_error_that_names_it():
    with pytest.raises(ValueError, match=r"'head/bias' of shape \(3,\).*\['\.\*kernel'\]"):
        label_by_path([(".*kernel", "a")])(linen_params())


def test_a_bad_value_of_a_rule_is_an_error_that_shows_it():
    with pytest.raises(ValueError, match=r"'orthogonl' for '.*kernel'"):
        orthojax.orthogonal(optax.sgd(0.1), rules=[(".*kernel", "orthogonl")])


def trained(params, loss, tx, steps=3):
    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params


def test_linen_frozen_dict_and_nnx_train_through_one_line():
    tx = orthojax.orthogonal(optax.adam(1e-2), map="cayley")
    x = jnp.asarray(gaussian(0, (4, 8), np.float32))
    apply = lambda params: jnp.sum(Dense().apply({"params": params}, x) ** 2)
    plain = trained(linen_params(), apply, tx)
    frozen = trained(freeze(linen_params()), apply, tx)
    jax.tree.map(np.testing.assert_array_equal, plain, frozen.unfreeze())
    assert orthojax.orthogonality_error(plain["hidden"]["kernel"]) < 1e-6

    graph, params, rest = nnx.split(Attention(nnx.Rngs(0)), nnx.Param, ...)
    loss = lambda p: jnp.sum(nnx.merge(graph, p, rest, copy=True)(x[None]) ** 2)
    state = trained(params, loss, tx)
    assert isinstance(state, nnx.State)
    kernels = {
        path_name(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        if path_name(path).endswith("kernel")
    }
    assert len(kernels) == 5
    for name, kernel in kernels.items():
        axes = default_axes(name, kernel)
        assert orthojax.orthogonality_error(kernel, axes) < 2e-6


def test_nnx_optimizer_takes_it():
    model = Attention(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, orthojax.orthogonal(optax.adam(1e-2)), wrt=nnx.Param)
    x = jnp.asarray(gaussian(0, (1, 4, 8), np.float32))

    @nnx.jit
    def step(model, optimizer):
        loss, grads = nnx.value_and_grad(lambda m: jnp.mean((m(x) - 1) ** 2))(model)
        optimizer.update(model, grads)
        return loss

    losses = [float(step(model, optimizer)) for _ in range(20)]
    assert losses[-1] < losses[0]
    assert orthojax.orthogonality_error(model.head.kernel[...]) < 1e-6


def test_leaves_that_share_a_matrix_shape_are_mapped_in_one_call():
    params = {"a": jnp.ones((4, 3)), "b": jnp.ones((3, 4)), "c": jnp.ones((5, 5))}
    views, calls = Views.of(params, None), []

    def f(x):
        calls.append(x.shape)
        return 2 * x, x[..., 0, 0]

    doubled, corner = views.map(f, views.matrices(params), outputs=2)
    assert sorted(calls) == [(2, 4, 3), (5, 5)]
    assert {k: v.shape for k, v in doubled.items()} == {"a": (4, 3), "b": (4, 3), "c": (5, 5)}
    assert all(x == 1 for x in corner.values())


def test_import_brings_in_neither_flax_nor_orbax_nor_data_sets():
    code = (
        "import sys, orthojax; "
        "print(sorted({'flax', 'orbax', 'tensorflow_datasets', 'matplotlib'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "shape", "axes"),
    [
        ("tower/query/kernel", (5, 24, 4, 6), MatrixAxes(-3, (-2, -1))),
        ("tower/out/kernel", (5, 4, 6, 24), MatrixAxes((-3, -2), -1)),
        ("tower/conv/kernel", (5, 3, 3, 8, 16), MatrixAxes((-4, -3, -2), -1)),
        ("tower/kernel", (2, 5, 3, 3, 8, 16), MatrixAxes((-4, -3, -2), -1)),
    ],
)
def test_stacks_that_look_like_another_layer_have_no_default_but_the_axes_that_are_proposed(
    name, shape, axes
):
    kernel = jnp.zeros(shape)
    with pytest.raises(ValueError, match=f"{name}.*no default") as error:
        default_axes(name, kernel)
    assert len(shape) > 5 or str(axes.reduction) in str(error.value)
    layers = len(shape) - (3 if "conv" not in name and len(shape) == 4 else 4)
    assert axes.batch_shape(shape) == shape[:layers]


LEAVES = {"encoder": {"kernel": jnp.ones((4, 4)), "bias": jnp.zeros(4)}}


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ([("kernel", "orthogonal"), (".*", "free")], "No parameter .*'kernel', near 'encoder/ker"),
        ([("encodr/.*", "orthogonal"), (".*", "free")], "'encodr/\\.\\*', near 'encoder/"),
        ([("*kernel", "orthogonal")], r"'\*kernel' is no regular expression: nothing to repeat"),
        ({".*kernel": "orthogonal"}, "sequence of pairs .* got {'.*kernel': 'orthogonal'}"),
        ([".*kernel"], "sequence of pairs .* got '.*kernel'"),
    ],
)
def test_rules_that_cannot_be_meant_are_an_error(rules, words):
    with pytest.raises(ValueError, match=words):
        orthojax.orthogonal(optax.sgd(0.1), rules=rules).init(LEAVES)


def test_a_rule_without_a_parameter_is_a_warning_where_others_have_one():
    rules = [("encoder/kernel", "orthogonal"), ("decoder/.*", "orthogonal"), (".*", "free")]
    tx = orthojax.orthogonal(optax.sgd(0.1), rules=rules)
    with pytest.warns(UserWarning, match=r"'decoder/\.\*', near 'encoder/"):
        tx.init(LEAVES)
    tx.init({})  # Nothing to say of nothing.


def test_orthogonality_errors_are_those_of_the_leaves_that_rules_choose():
    stack = jnp.stack([jnp.eye(3), 2 * jnp.eye(3)])
    params = {"a": {"kernel": 3 * jnp.eye(4)}, "b": stack, "head": {"kernel": jnp.ones((4, 2))}}
    rules = [("a/.*", "orthogonal"), ("b", MatrixAxes(-2, -1)), (".*", "free")]
    errors = orthojax.orthogonality_errors(params, rules)
    assert {name: float(error) for name, error in errors.items()} == {"a/kernel": 8.0, "b": 3.0}
