import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from matrices_of import gaussian, orthonormal

import orthojax


def trained(tx, w, target, steps):
    """Weights after each of `steps` updates [steps, n, p], and the ranks in the state, if any."""

    def step(carry, _):
        w, state = carry
        updates, state = tx.update(w - target, state, w)
        w = optax.apply_updates(w, updates)
        ranks = [leaf for _, leaf in optax.tree.get_all_with_path(state, "rank")]
        return (w, state), (w, ranks)

    run = jax.jit(lambda w: jax.lax.scan(step, (w, tx.init(w)), length=steps)[1])
    return run(jnp.asarray(w))


OPTIMIZERS = {
    "momentum": optax.sgd(0.05, momentum=0.9),
    "adamw": optax.adamw(0.02, weight_decay=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_before_the_delay_it_is_its_inner_optimizer(x64, name):
    w, target, inner = gaussian(0, (6, 4)), gaussian(1, (6, 4)), OPTIMIZERS[name]
    expected, _ = trained(inner, w, target, 8)
    tx = orthojax.oialr(inner, delay=8, every=3)
    actual, _ = trained(tx, w, target, 8)
    np.testing.assert_allclose(actual, expected, atol=1e-14)


@pytest.mark.parametrize("delay", [0, 5])
def test_without_a_cutoff_momentum_does_not_notice_the_change_of_coordinates(x64, delay):
    # A square core spans all: only moments that are lost or not rotated would show.
    w, target, inner = gaussian(0, (5, 5)), gaussian(1, (5, 5)), OPTIMIZERS["momentum"]
    expected, _ = trained(inner, w, target, 20)
    actual, _ = trained(orthojax.oialr(inner, delay=delay, every=4, cutoff=0), w, target, 20)
    np.testing.assert_allclose(actual, expected, atol=1e-11)


def test_the_first_low_rank_step_is_no_shock_to_adam(x64):
    w, target = gaussian(0, (6, 6)), gaussian(1, (6, 6))
    tx = orthojax.oialr(optax.adam(0.02), delay=30, every=10, cutoff=0)
    weights, _ = trained(tx, w, target, 40)
    losses = np.sum((np.asarray(weights) - target) ** 2, axis=(1, 2))
    assert np.all(losses[30:] < 1.02 * losses[29])


def test_it_finds_the_rank_of_its_target_and_the_rank_only_falls(x64):
    u, v = orthonormal(1, (8, 2)), orthonormal(2, (5, 2))
    target = u * [2.0, 1.0] @ v.T
    w = 0.3 * gaussian(0, (8, 5))
    tx = orthojax.oialr(optax.adam(0.05), delay=40, every=10, cutoff=0.1)
    weights, (ranks,) = trained(tx, w, target, 200)
    ranks = [int(r) for r in ranks]
    assert set(ranks[:40]) == {0}  # Not yet.
    assert ranks[40:] == sorted(ranks[40:], reverse=True)
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


@pytest.mark.parametrize(("argument", "value"), [("delay", -1), ("every", 0), ("cutoff", 1.0)])
def test_bad_arguments_are_errors_that_name_them(argument, value):
    arguments = {"delay": 1, "every": 1, argument: value}
    with pytest.raises(ValueError, match=rf"`{argument}`.*got {value}"):
        orthojax.oialr(optax.sgd(0.1), **arguments)
