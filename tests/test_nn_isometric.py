"""Isometric and two-layer modules, alone and stacked, at first and after training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from matrices_of import defect, gaussian

import orthojax
from orthojax import persistent
from orthojax.matrices import named
from orthojax.nn.isometric import Fold, IsometricDense
from orthojax.nn.residual import Fixup, TwoLayer, persistent_stack
from orthojax.nn.stack import Stack

RULES = [(".*kernel", orthojax.MatrixAxes(-2, -1)), (".*", "free")]


def test_a_stack_of_folds_stays_isometric_only_if_trained_on_the_manifold():
    model = nnx.jit(lambda: Stack(lambda rngs: Fold(16, 8, rngs=rngs), 50, rngs=nnx.Rngs(0)))()
    graph, start = nnx.split(model, nnx.Param)
    x, y = gaussian(0, (32, 16), np.float32), gaussian(1, (32, 16), np.float32)

    def loss(params):
        return jnp.mean((nnx.merge(graph, params)(x) - y) ** 2)

    @jax.jit
    def jacobian(params):
        return jax.jacfwd(nnx.merge(graph, params))(x[0])

    def trained(tx):
        def step(carry, _):
            params, state = carry
            value, grads = jax.value_and_grad(loss)(params)
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), value

        run = jax.jit(lambda params: jax.lax.scan(step, (params, tx.init(params)), length=5))
        (params, _), losses = run(start)
        return params, losses

    assert defect(jacobian(start)) < 1e-5
    params, losses = trained(orthojax.orthogonal(optax.adam(1e-3), map="cayley", rules=RULES))
    assert losses[-1] < losses[0]
    assert defect(jacobian(params)) < 1e-5
    moved = named(params)["layers/kernel"] - named(start)["layers/kernel"]
    assert np.abs(moved).max() > 1e-3
    free, _ = trained(optax.adam(1e-3))
    assert defect(jacobian(free)) > 0.01


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (
            lambda rngs: Fold(6, 3, rngs=rngs),
            {"kernel": (4, 6, 3), "bias": (4, 3)},
        ),
        (
            lambda rngs: IsometricDense(6, rngs=rngs),
            {"kernel": (4, 6, 6), "bias": (4, 6), "out_kernel": (4, 6, 6)},
        ),
        (
            lambda rngs: TwoLayer(6, 5, residual=True, multiplier=0.5, rngs=rngs),
            {
                "inner/kernel": (4, 6, 5),
                "inner/bias": (4, 5),
                "outer/kernel": (4, 5, 6),
                "outer/bias": (4, 6),
                "multiplier": (4,),
            },
        ),
        (
            lambda rngs: Fixup(6, 5, depth=4, rngs=rngs),
            {
                "inner/kernel": (4, 6, 5),
                "outer/kernel": (4, 5, 6),
                "multiplier": (4,),
                "biases": (4, 4),
            },
        ),
    ],
    ids=["fold", "dense", "two_layer", "fixup"],
)
def test_layers_alone_are_the_steps_of_their_stack(make, expected):
    model = nnx.jit(lambda: Stack(make, 4, rngs=nnx.Rngs(0)))()
    params = named(nnx.state(model, nnx.Param))
    assert {name: x.shape for name, x in params.items()} == {
        f"layers/{name}": shape for name, shape in expected.items()
    }
    # Fixup and ReZero begin as the identity.
    nnx.update(model, jax.tree.map(lambda p: p + 0.1, nnx.state(model, nnx.Param)))
    x = gaussian(0, (2, 6), np.float32)

    @nnx.jit
    def both(model, x):
        alone = [x]
        for index in range(4):
            alone.append(model.layer(index)(alone[-1]))
        return model.outputs(x), jnp.stack(alone[1:])

    np.testing.assert_allclose(*both(model, x), rtol=1e-5, atol=1e-5)


def test_isometric_modules_start_orthogonal_with_any_two_slopes():
    leaky = {"activation": lambda s: jax.nn.leaky_relu(s, 0.2), "slopes": (1, 0.2)}
    x = gaussian(0, (6,), np.float32)
    for layer in (
        Fold(6, rngs=nnx.Rngs(0), **leaky),
        IsometricDense(6, rngs=nnx.Rngs(0), **leaky),
        Fold(6, 3, bias_init=nnx.initializers.normal(), rngs=nnx.Rngs(0)),
    ):
        assert defect(jax.jit(jax.jacfwd(layer))(x)) < 1e-5


@pytest.mark.parametrize("residual", [False, True])
def test_a_stack_of_persistent_weights_computes_with_them(x64, residual):
    # Biases are 0 in all initial weights; here they are not.
    filled = [gaussian(i, s) for i, s in enumerate([(6, 8, 5), (6, 5), (6, 5, 8), (6, 8)])]
    blocks = persistent.Persistent(*filled, None)
    model = nnx.jit(lambda: persistent_stack(blocks, residual=residual))()
    params = named(nnx.state(model, nnx.Param))
    names = ["inner/bias", "inner/kernel", "outer/bias", "outer/kernel"]
    assert sorted(params) == [f"layers/{name}" for name in names]
    x = expected = gaussian(9, (3, 8))
    for inner, inner_bias, outer, outer_bias in zip(*filled, strict=True):
        branch = np.maximum(expected @ inner + inner_bias, 0) @ outer + outer_bias
        expected = expected + branch if residual else branch
    np.testing.assert_allclose(nnx.jit(lambda m, x: m(x))(model, x), expected, rtol=1e-10)
    alone = jax.jit(lambda x: persistent.propagate(blocks, x, residual=residual))
    np.testing.assert_allclose(alone(x[0]), expected[0], rtol=1e-10)


def test_stacks_can_be_made_under_vmap_over_the_seed():
    def output(key):
        blocks = persistent.shared(key, 5, 8)
        return persistent_stack(blocks, residual=False)(jnp.ones(8))

    keys = jax.random.split(jax.random.key(0), 2)
    first, second = jax.jit(jax.vmap(output))(keys)
    np.testing.assert_allclose(second, jax.jit(output)(keys[1]), atol=1e-5)
    assert np.abs(first - second).max() > 0.1


def test_rezero_and_fixup_begin_as_the_identity_and_learn():
    x = gaussian(0, (3, 8), np.float32)
    kaiming = persistent.kaiming(jax.random.key(0), 100, 8)
    models = {
        "rezero": persistent_stack(kaiming, residual=True, multiplier=0.0),
        "fixup": Stack(lambda rngs: Fixup(8, depth=100, rngs=rngs), 100, rngs=nnx.Rngs(0)),
    }
    moves = {"rezero": "layers/multiplier", "fixup": "layers/outer/kernel"}
    for name, model in models.items():
        graph, params = nnx.split(model, nnx.Param)
        f = lambda params, graph=graph: nnx.merge(graph, params)(x)
        y, grads = jax.jit(lambda p, f=f: (f(p), jax.grad(lambda p: jnp.sum(f(p) ** 2))(p)))(params)
        np.testing.assert_array_equal(y, x)
        assert np.abs(named(grads)[moves[name]]).max() > 0.1
    inner = named(params)["layers/inner/kernel"]
    assert np.std(inner) == pytest.approx((2 / 8 / 100) ** 0.5, rel=0.05)


def test_impossible_arguments_are_errors_that_name_them():
    with pytest.raises(ValueError, match=r"`folds` is between 1 and width=4, got 5"):
        Fold(4, 5, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"`slopes`"):
        IsometricDense(4, slopes=(1, 1), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"`outer` needs the shape \(4, 4\), got \(4, 3\)"):
        TwoLayer(4, residual=False, outer=jnp.ones((4, 3)), rngs=nnx.Rngs(0))
