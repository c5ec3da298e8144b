import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from matrices_of import gaussian, orthonormal

import orthojax


def matrix_of(spectrum, n):
    p = len(spectrum)
    return orthonormal(0, (n, p)) * spectrum @ orthonormal(1, (p, p)).T


@pytest.mark.parametrize("shape", [(1, 1), (6, 4), (2, 5, 5)])
def test_without_a_cutoff_init_is_a_right_inverse_of_forward(x64, shape):
    w, p = gaussian(0, shape), orthojax.low_rank()
    np.testing.assert_allclose(p.forward(*p.init(w)), w, atol=1e-13)


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_truncation_drops_exactly_the_tail_of_the_spectrum(x64, rank):
    spectrum = np.array([4.0, 2.0, 1.0, 0.5])
    w, p = matrix_of(spectrum, 7), orthojax.low_rank(cutoff=0.99 * spectrum[rank - 1] / 4)
    base, core = p.init(w)
    truncated = p.forward(base, core)
    assert base.rank == rank
    np.testing.assert_allclose(
        np.linalg.svd(truncated, compute_uv=False)[:rank], spectrum[:rank], atol=1e-13
    )
    error = np.linalg.norm(w - truncated)
    np.testing.assert_allclose(error, np.linalg.norm(spectrum[rank:]), atol=1e-13)
    # Again: nothing more is lost.
    np.testing.assert_allclose(p.forward(*p.init(truncated)), truncated, atol=1e-13)


def test_each_matrix_of_a_batch_has_its_own_rank(x64):
    batch = np.stack([matrix_of([1.0, 0.5, 0.01], 5), matrix_of([1.0, 0.01, 0.001], 5)])
    base, _ = orthojax.low_rank(cutoff=0.1).init(batch)
    np.testing.assert_array_equal(base.rank, [2, 1])


def test_a_zero_kernel_keeps_its_rank_and_can_learn(x64):
    p = orthojax.low_rank(cutoff=0.5)
    base, core = p.init(jnp.zeros((4, 3)))
    assert base.rank == 3
    gradient = jax.grad(lambda s: jnp.sum((p.forward(base, s) - 1) ** 2))(core)
    assert np.linalg.norm(gradient) > 0


def trained(tx, w, steps=24):
    target = gaussian(5, w.shape) / 3

    def step(carry, _):
        w, state = carry
        updates, state = tx.update(w - target, state, w)
        return (optax.apply_updates(w, updates), state), None

    run = jax.jit(lambda w: jax.lax.scan(step, (w, tx.init(w)), length=steps)[0])
    return run(jnp.asarray(w))


OPTIMIZERS = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, momentum=0.9),
    "adamw": optax.adamw(0.01, weight_decay=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_factored_and_latent_training_give_the_same_trajectory(x64, name):
    w, inner, p = gaussian(0, (6, 4)), OPTIMIZERS[name], orthojax.low_rank(cutoff=0.3)
    x = gaussian(1, (9, 6))
    y = gaussian(2, (9, 4))
    base, core = p.init(w)
    tx = orthojax.reparameterize(inner, p)
    latent = jnp.asarray(p.forward(base, core))

    def factored_loss(core):
        return jnp.mean((((x @ base.u) @ core) @ base.v.T - y) ** 2)

    @jax.jit
    def both(latent, state, core, core_state):
        updates, state = tx.update(
            jax.grad(lambda w: jnp.mean((x @ w - y) ** 2))(latent), state, latent
        )
        steps, core_state = inner.update(jax.grad(factored_loss)(core), core_state, core)
        return (
            optax.apply_updates(latent, updates),
            state,
            optax.apply_updates(core, steps),
            core_state,
        )

    carry = latent, tx.init(jnp.asarray(w)), core, inner.init(core)
    for _ in range(20):
        carry = both(*carry)
    np.testing.assert_allclose(carry[0], p.forward(base, carry[2]), atol=1e-10)


def test_momentum_is_transported_so_that_turning_the_bases_changes_nothing(x64):
    w, inner = gaussian(0, (6, 4)), OPTIMIZERS["momentum"]
    fixed, _ = trained(orthojax.reparameterize(inner, orthojax.low_rank()), w)
    turned, _ = trained(orthojax.reparameterize(inner, orthojax.low_rank(), rebase_every=5), w)
    np.testing.assert_allclose(turned, fixed, atol=1e-12)


def test_second_moments_stay_positive_and_keep_their_sum_when_bases_turn(x64):
    p = orthojax.low_rank()
    old, _ = p.init(gaussian(0, (5, 5)))
    new, _ = p.init(gaussian(1, (5, 5)))
    nu = gaussian(2, (5, 5)) ** 2
    moved = p.transport(old, new, nu, True)
    assert np.min(moved) >= 0
    np.testing.assert_allclose(np.sum(moved), np.sum(nu))


def test_the_rank_only_falls_and_the_weights_have_it(x64):
    w = matrix_of([1.0, 0.9, 0.8, 0.7], 6)
    target = matrix_of([1.0, 0.5, 0.0, 0.0], 6)
    tx = orthojax.reparameterize(optax.adam(0.03), orthojax.low_rank(cutoff=0.2), rebase_every=10)
    state, ranks = tx.init(jnp.asarray(w)), []

    @jax.jit
    def step(w, state):
        updates, state = tx.update(w - target, state, w)
        return optax.apply_updates(w, updates), state

    w = jnp.asarray(w)
    for _ in range(100):
        w, state = step(w, state)
        ranks.append(int(state.base.rank))
    assert ranks == sorted(ranks, reverse=True)
    assert ranks[-1] == np.linalg.matrix_rank(w, tol=1e-8) == 2


@pytest.mark.parametrize("cutoff", [-0.1, 1.0])
def test_a_cutoff_out_of_range_is_an_error_that_shows_it(cutoff):
    with pytest.raises(ValueError, match=rf"`cutoff`.*got {cutoff}"):
        orthojax.low_rank(cutoff)
