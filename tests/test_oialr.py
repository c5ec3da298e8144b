"""OIALR as a transformation, and that its faces (latent in two ways, factored) train alike."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from matrices_of import gaussian, orthonormal

import orthojax
from orthojax.matrices import map_named, named


def trained(tx, w, target, steps):
    """Weights after each of `steps` updates [steps, n, p], and the ranks in the state, if any."""

    def step(carry, _):
        w, state = carry
        updates, state = tx.update(w - target, state, w)
        w = optax.apply_updates(w, updates)
        ranks = state.bases[""].rank if isinstance(state, orthojax.OIALRState) else None
        return (w, state), (w, ranks)

    run = jax.jit(lambda w: jax.lax.scan(step, (w, tx.init(w)), length=steps)[1])
    return run(jnp.asarray(w))


def test_before_the_delay_it_is_its_inner_optimizer(x64):
    w, target, inner = gaussian(0, (6, 4)), gaussian(1, (6, 4)), optax.adamw(0.02, weight_decay=0.1)
    expected, _ = trained(inner, w, target, 8)
    tx = orthojax.oialr(inner, delay=8, every=3)
    actual, _ = trained(tx, w, target, 8)
    np.testing.assert_allclose(actual[:7], expected[:7], atol=1e-14)
    # The eighth is the first to be truncated.
    assert np.linalg.norm(actual[7] - expected[7]) < 0.1 * np.linalg.norm(expected[7])


@pytest.mark.parametrize("delay", [0, 5])
def test_without_a_cutoff_momentum_does_not_notice_the_change_of_coordinates(x64, delay):
    # A square core spans all: only moments that are lost or not rotated would show.
    w, target, inner = gaussian(0, (5, 5)), gaussian(1, (5, 5)), optax.sgd(0.05, momentum=0.9)
    expected, _ = trained(inner, w, target, 20)
    actual, _ = trained(orthojax.oialr(inner, delay=delay, every=4, cutoff=0), w, target, 20)
    np.testing.assert_allclose(actual, expected, atol=1e-11)


def test_the_change_to_low_rank_is_no_shock_to_adam(x64):
    w, target = gaussian(0, (6, 6)), gaussian(1, (6, 6))
    tx = orthojax.oialr(optax.adam(0.02), delay=30, every=10, cutoff=0)
    weights, _ = trained(tx, w, target, 45)
    losses = np.sum((np.asarray(weights) - target) ** 2, axis=(1, 2))
    assert np.all(losses[30:] < 1.02 * losses[29:-1])


def test_it_finds_the_rank_of_its_target_and_the_rank_only_falls(x64):
    u, v = orthonormal(1, (8, 2)), orthonormal(2, (5, 2))
    target = u * [2.0, 1.0] @ v.T
    w = 0.3 * gaussian(0, (8, 5))
    tx = orthojax.oialr(optax.adam(0.05), delay=40, every=10, cutoff=0.1)
    weights, ranks = trained(tx, w, target, 200)
    ranks = ranks.tolist()
    assert set(ranks[:39]) == {0}  # Not yet.
    assert ranks[39:] == sorted(ranks[39:], reverse=True)
    assert ranks[-1] == np.linalg.matrix_rank(weights[-1], tol=1e-8) == 2
    assert np.linalg.norm(weights[-1] - target) < 0.2 * np.linalg.norm(target)


def test_low_rank_weights_stay_in_the_span_of_their_bases(x64):
    tx = orthojax.oialr(optax.adamw(0.05), delay=2, every=100, cutoff=0.5)
    weights, _ = trained(tx, gaussian(0, (7, 4)), gaussian(1, (7, 4)), 30)
    u, s, vt = np.linalg.svd(weights[3])
    rank = int(np.sum(s > 1e-10))
    assert rank < 4
    outside = np.asarray(weights[3:]) - (
        u[:, :rank] @ u[:, :rank].T @ weights[3:] @ vt[:rank].T @ vt[:rank]
    )
    np.testing.assert_allclose(outside, 0, atol=1e-12)


def test_growing_bases_reach_what_their_span_could_not(x64):
    w = gaussian(0, (8, 2)) @ gaussian(1, (2, 6)) / 4
    target = gaussian(2, (8, 6))
    u, _, vt = np.linalg.svd(w)
    reachable = u[:, :2] @ u[:, :2].T @ target @ vt[:2].T @ vt[:2]
    bound = np.sum((target - reachable) ** 2)  # The least that any core gives.
    options = {"delay": 0, "every": 10, "cutoff": 1e-3}
    losses, ranks = {}, {}
    for grow in (0, 1):
        tx = orthojax.oialr(optax.adam(0.05), grow=grow, **options)
        weights, ranks[grow] = trained(tx, w, target, 160)
        losses[grow] = np.sum((np.asarray(weights[-1]) - target) ** 2)
    assert bound <= losses[0] < 1.01 * bound
    assert losses[1] < 0.5 * bound
    assert ranks[0].max() == 2
    assert ranks[1][-1] >= 5


# The faces. A network of tall, wide and square kernels, the square one seen transposed; its kernels
# can each have their own optimizer, so that one run compares several.

RULES = [
    ("c/kernel", orthojax.MatrixAxes(1, 0)),
    (".*/kernel", "low_rank"),
    (".*", "dense"),
]
X, Y = gaussian(7, (20, 8)), gaussian(8, (20, 5))


def network(params):
    x = X
    for name in "acb":
        x = jnp.tanh(x @ params[name]["kernel"] + params[name]["bias"])
    return jnp.mean((x @ params["head"]["kernel"] - Y) ** 2)


def layer(params):
    return jnp.mean((X @ params["a"]["kernel"] - Y) ** 2)


def start(loss):
    # Few shapes of matrices: each is another SVD to compile.
    shapes = {"a": (8, 5), "b": (5, 8), "c": (5, 5), "head": (8, 5)}
    params = {
        name: {"kernel": gaussian(i, s) / 2, "bias": np.zeros((1, s[1]))}
        for i, (name, s) in enumerate(shapes.items())
    }
    del params["head"]["bias"]
    if loss is layer:
        params = {"a": {"kernel": gaussian(0, (8, 2)) @ gaussian(1, (2, 5))}}
    return jax.tree.map(jnp.asarray, params)


def each_its_own(params):
    return map_named(lambda name, _: name[0], params)


INNER = optax.chain(
    optax.clip_by_global_norm(0.3),
    optax.partition(
        {
            "a": optax.sgd(0.2, momentum=0.9),
            "b": optax.lion(0.02),
            "c": optax.adamw(0.05, weight_decay=0.1),
            "h": optax.rmsprop(0.01),
        },
        each_its_own,
    ),
)
OPTIONS = {"delay": 3, "every": 3, "cutoff": 0.6, "rules": RULES, "max_drop": 0.25}
STEPS = 11


def factored(inner, loss=network, **options):
    """Losses, final dense params, number of traces, [{path: columns}] and [{path: rank}] after each
    step."""
    method = orthojax.OIALR(**OPTIONS | options)
    params, bases = start(loss), {}
    state, traces, losses, columns, ranks = inner.init(params), 0, [], [], []
    structure = jax.tree.structure(state)

    @jax.jit
    def step(params, bases, state):
        nonlocal traces
        traces += 1
        value, grads = jax.value_and_grad(lambda p: loss(orthojax.bind(p, bases)))(params)
        updates, state = inner.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    params, bases, state = method.refresh(0, params, bases, state, inner)
    directions = jax.jit(lambda p, b: orthojax.basis_gradients(loss, p, b))
    for i in range(1, STEPS + 1):
        grows = method.grow and bases and method.is_due(i)
        grads = directions(params, bases) if grows else None
        params, state, value = step(params, bases, state)
        params, bases, state = method.refresh(i, params, bases, state, inner, grads)
        losses.append(float(value))
        columns.append({name: basis.columns for name, basis in bases.items()})
        ranks.append({name: int(basis.rank) for name, basis in bases.items()})
        assert jax.tree.structure(state) == structure
        fresh = jax.eval_shape(inner.init, params)
        jax.tree.map(lambda x, y: np.testing.assert_equal(x.shape, y.shape), state, fresh)
    return losses, orthojax.materialize(params, bases), traces, columns, ranks


def latent(inner, svd, loss=network, **options):
    """Losses and final params."""
    tx = orthojax.oialr(inner, svd=svd, **OPTIONS | options)
    params, losses = start(loss), []
    state = jax.jit(tx.init)(params)

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    for _ in range(STEPS):
        params, state, value = step(params, state)
        losses.append(float(value))
        if svd == "outside":
            params, state = tx.refresh(params, state)
    return losses, params


def assert_alike(run, other):
    np.testing.assert_allclose(run[0], other[0], rtol=1e-10)
    for name, leaf in named(run[1]).items():
        np.testing.assert_allclose(leaf, named(other[1])[name], atol=1e-10)


@functools.cache
def reference():
    return factored(INNER, compact=0.0)


def distinct(rows):
    return [row for i, row in enumerate(rows) if i == 0 or row != rows[i - 1]]


@pytest.mark.parametrize("svd", [pytest.param("in_step", marks=pytest.mark.slow), "outside"])
def test_latent_training_is_factored_training(x64, svd):
    assert_alike(reference(), latent(INNER, svd, compact=0.0))


def test_ranks_fall_in_several_changes_and_each_new_shape_is_one_trace(x64):
    _, _, traces, columns, ranks = reference()
    falling = [sum(row.values()) for row in distinct(ranks)[1:]]
    assert len(falling) >= 3
    assert falling == sorted(falling, reverse=True)
    assert columns == ranks
    # {} first, then those of each change; the shapes after the last step meet no step.
    assert traces == len(distinct(columns[:-1]))


def test_padding_changes_nothing(x64):
    padded = factored(INNER, compact=None)
    assert_alike(reference(), padded)
    assert padded[2] == 2
    assert padded[4] == reference()[4]


def test_growing_is_the_same_in_factors_that_make_room_for_it(x64):
    options = {"loss": layer, "delay": 0, "grow": 1, "max_drop": 1.0, "cutoff": 1e-3}
    run = factored(optax.adam(0.1), compact=0.0, **options)
    assert_alike(run, latent(optax.adam(0.1), "in_step", **options))
    assert [row["a/kernel"] for row in run[4]] == [2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5]
    assert [row["a/kernel"] for row in run[3]] == [3, 3, 4, 4, 4, 5, 5, 5, 5, 5, 5]


def test_growing_needs_the_gradient_in_the_step():
    with pytest.raises(ValueError, match='`grow` in `oialr` needs `svd="in_step"`'):
        orthojax.oialr(optax.sgd(0.1), svd="outside", delay=0, every=1, grow=1)


@pytest.mark.parametrize(
    ("argument", "value"), [("delay", -1), ("every", 0), ("cutoff", 1.0), ("svd", "never")]
)
def test_bad_arguments_are_errors_that_name_them(argument, value):
    arguments = {"delay": 1, "every": 1, argument: value}
    with pytest.raises(ValueError, match=rf"`{argument}`.*got '?{value}"):
        orthojax.oialr(optax.sgd(0.1), **arguments)
