import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from matrices_of import defect, gaussian, orthonormal
from updates import first_update

import orthojax
from orthojax.linalg import tangent

SHAPES = [(4, 4), (6, 3)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
every_retraction = pytest.mark.parametrize("name", ["cayley", "exponential", "polar", "qr"])


def inner(metric, w, a, b):
    """<a, b> at w: tr(a'b), or tr(a'(I - w w'/2) b)."""
    return np.sum(a * b) - (metric == "canonical") * np.sum((w.T @ a) * (w.T @ b)) / 2


@every_shape
@pytest.mark.parametrize("metric", ["euclidean", "canonical"])
def test_the_gradient_represents_the_differential_in_its_metric(x64, metric, shape):
    w, g = orthonormal(0, shape), gaussian(1, shape)
    tx = orthojax.riemannian_gradient(metric)
    gradient = first_update(tx, g, w)
    gradient = np.asarray(gradient)
    np.testing.assert_allclose(w.T @ gradient + gradient.T @ w, 0, atol=1e-13)
    for seed in range(3):
        xi = np.asarray(tangent(w, gaussian(2 + seed, shape)))
        np.testing.assert_allclose(inner(metric, w, gradient, xi), np.sum(g * xi), atol=1e-12)


@every_retraction
@every_shape
def test_retract_moves_along_the_step_to_first_order_and_stays_on_the_manifold(x64, name, shape):
    w = orthonormal(0, shape)
    step = np.asarray(tangent(w, gaussian(1, shape)))
    tx = orthojax.retract(name)
    for h in (1e-3, 1.0):
        update = first_update(tx, h * step, w)
        assert defect(w + update) < 1e-13
        if h < 1:
            np.testing.assert_allclose(update, h * step, atol=20 * h**2)


@every_retraction
def test_the_chain_reads_as_it_works_and_finds_the_nearest_matrix(x64, name):
    target = gaussian(0, (6, 3))
    u, _, vt = np.linalg.svd(target, full_matrices=False)
    tx = optax.chain(
        orthojax.riemannian_gradient(),
        optax.scale_by_adam(),
        optax.scale_by_learning_rate(optax.exponential_decay(0.1, 30, 0.7)),
        orthojax.retract(name),
    )
    w = jnp.asarray(orthonormal(1, (6, 3)))

    @jax.jit
    def step(w, state):
        updates, state = tx.update(w - target, state, w)
        return optax.apply_updates(w, updates), state

    state = jax.jit(tx.init)(w)
    for _ in range(400):
        w, state = step(w, state)
    np.testing.assert_allclose(w, u @ vt, atol=1e-3)
    assert defect(w) < 1e-13


def test_a_retraction_of_weights_off_the_manifold_brings_them_there():
    w = {"gaussian": jnp.asarray(gaussian(0, (5, 3), np.float32)), "zero": jnp.zeros((3, 3))}
    for name in ("cayley", "qr"):
        tx = orthojax.retract(name)
        updates = first_update(tx, w, w)
        for moved in optax.apply_updates(w, updates).values():
            assert defect(moved) < 2e-6


def test_bad_arguments_are_errors_that_name_them():
    with pytest.raises(ValueError, match=r"`metric`.*got 'euclid'"):
        orthojax.riemannian_gradient("euclid")
    with pytest.raises(ValueError, match=r"`retraction`.*Householder"):
        orthojax.retract("householder")
    with pytest.raises(ValueError, match="Got 'expm'"):
        orthojax.retract("expm")
