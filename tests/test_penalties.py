"""Penalties against the gradient, by autodiff in float64, of the penalty written plainly; the cap
against the SVD."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from matrices_of import gaussian, orthonormal

import orthojax
from orthojax.spectral import clip_singular_values

SHAPES = ((5, 3), (4, 4))


def frobenius_defect(w):
    return jnp.sum((w.T @ w - jnp.eye(w.shape[1])) ** 2)


# {name: (factory, penalty)}
PENALTIES = {
    "so": (orthojax.add_soft_orthogonality, frobenius_defect),
    "dso": (
        orthojax.add_double_soft_orthogonality,
        lambda w: frobenius_defect(w) + frobenius_defect(w.T),
    ),
    "mc": (
        orthojax.add_mutual_coherence,
        lambda w: jnp.max(jnp.abs(w.T @ w - jnp.eye(w.shape[1]))),
    ),
    "srip": (
        functools.partial(orthojax.add_srip, iterations=400),
        lambda w: jnp.max(jnp.abs(jnp.linalg.eigvalsh(w.T @ w - jnp.eye(w.shape[1])))),
    ),
    "spectral_norm": (
        functools.partial(orthojax.add_spectral_norm, iterations=400),
        lambda w: jnp.linalg.norm(w, 2) ** 2 / 2,
    ),
}
every_penalty = pytest.mark.parametrize("name", PENALTIES)


def update(tx, u, w):
    return jax.jit(lambda u, w: tx.update(u, tx.init(w), w)[0])(u, w)


@every_penalty
@pytest.mark.parametrize("shape", SHAPES)
def test_it_adds_the_gradient_of_the_penalty(x64, name, shape):
    factory, penalty = PENALTIES[name]
    w, u = 0.6 * gaussian(0, shape), gaussian(1, shape)
    expected = u + 0.3 * jax.grad(penalty)(jnp.asarray(w))
    np.testing.assert_allclose(update(factory(0.3), u, w), expected, atol=1e-12)
    if name == "so" and shape[0] > shape[1]:  # Wide ones are transposed.
        np.testing.assert_allclose(update(factory(0.3), u.T, w.T), expected.T, atol=1e-12)


@every_penalty
def test_a_batch_is_penalized_matrix_by_matrix(name):
    tx = PENALTIES[name][0](0.3)
    w, u = gaussian(0, (2, 5, 3), np.float32), gaussian(1, (2, 5, 3), np.float32)
    stacked = PENALTIES[name][0](0.3, axes=orthojax.MatrixAxes(-2, -1))
    alone = np.stack([update(tx, a, b) for a, b in zip(u, w, strict=True)])
    np.testing.assert_allclose(update(stacked, u, w), alone, atol=1e-5)


@every_penalty
def test_it_is_finite_where_singular_values_are_equal_and_where_all_are_zero(name):
    tx = PENALTIES[name][0](1.0)
    for w in (orthonormal(0, (5, 3), np.float32), np.zeros((5, 3), np.float32)):
        assert np.isfinite(update(tx, np.zeros_like(w), w)).all()


@pytest.mark.parametrize("name", ["so", "dso", "srip"])
def test_descent_ends_at_an_orthonormal_matrix(name):
    tx = optax.chain(PENALTIES[name][0](0.05), optax.sgd(1.0))
    w = jnp.asarray(gaussian(0, (6, 4), np.float32)) / 2

    @jax.jit
    def train(w):
        def step(_, carry):
            w, state = carry
            updates, state = tx.update(jnp.zeros_like(w), state, w)
            return w + updates, state

        return jax.lax.fori_loop(0, 300, step, (w, tx.init(w)))[0]

    # The force of SRIP does not fade: it ends within a step of the manifold.
    assert orthojax.orthogonality_error(train(w)) < (0.25 if name == "srip" else 1e-5)


def test_power_iterations_go_on_from_update_to_update():
    w = np.diag(np.float32([1.2, 1.0, 0.8]))
    once, often = orthojax.add_srip(1.0, 1), orthojax.add_srip(1.0, 200)
    step = jax.jit(lambda state: once.update(jnp.zeros((3, 3)), state, w))
    state = once.init(w)
    for _ in range(200):
        updates, state = step(state)
    np.testing.assert_allclose(updates, update(often, np.zeros_like(w), w), atol=1e-5)
    assert state.power_vectors.shape == (3, 1)


def clipped(w, cap):
    u, s, vt = np.linalg.svd(w, full_matrices=False)
    return (u * np.minimum(s, cap)[..., None, :]) @ vt


@pytest.mark.parametrize("shape", [*SHAPES, (2, 9, 6)])
@pytest.mark.parametrize("cap", [0.5, 2.0, 30.0])
def test_the_cap_clips_singular_values(x64, shape, cap):
    w = gaussian(0, shape)
    clip = jax.jit(lambda w: clip_singular_values(w, cap))
    np.testing.assert_allclose(clip(w), clipped(w, cap), atol=1e-4 * cap)


def test_the_cap_is_of_the_weights_after_the_update():
    w, u = gaussian(0, (4, 6), np.float32), gaussian(1, (4, 6), np.float32)
    after = w + np.asarray(update(orthojax.spectral_cap(1.5), u, w))
    np.testing.assert_allclose(after, clipped(w + u, 1.5), atol=1e-4)
    below = orthonormal(0, (6, 4), np.float32)
    still = update(orthojax.spectral_cap(1.5), np.zeros_like(below), below)
    np.testing.assert_allclose(still, 0, atol=2e-6)


def test_bad_arguments_are_errors_that_name_them():
    for make, match in (
        (lambda: orthojax.add_soft_orthogonality(-1.0), r"`weight`.*got -1"),
        (lambda: orthojax.add_srip(1.0, iterations=0), r"`iterations`.*got 0"),
        (lambda: orthojax.spectral_cap(0.0), r"`cap`.*got 0"),
        (lambda: orthojax.spectral_cap(1.0, steps=0), r"`steps`.*got 0"),
    ):
        with pytest.raises(ValueError, match=match):
            make()
    with pytest.raises(ValueError, match="`add_srip` needs the current weights"):
        orthojax.add_srip(1.0).update({}, optax.EmptyState())
