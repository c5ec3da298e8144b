"""Orthogonalized updates against the SVD; Muon on the manifold against the dual problem, solved by
SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from matrices_of import defect, gaussian, orthonormal

import orthojax
from orthojax.transforms.manifold_muon import steepest_tangent
from orthojax.transforms.spectral_sphere import sphere_tangent


def polar(x):
    u, _, vt = np.linalg.svd(x, full_matrices=False)
    return u @ vt


def update(tx, u, w=None):
    return jax.jit(lambda u: tx.update(u, tx.init(u), w)[0])(u)


@pytest.mark.parametrize(
    ("method", "steps", "error"),
    [
        ("polar_express", 8, 1e-4),
        ("polar_express", 5, 6e-3),
        ("exact", None, 1e-12),
        ("newton_schulz", 5, 0.35),
    ],
)
@pytest.mark.parametrize("shape", [(12, 4), (4, 4), (4, 12), (3, 8, 5)])
def test_it_is_the_polar_factor(x64, method, steps, error, shape):
    g = gaussian(1, shape)
    axes = orthojax.MatrixAxes(-2, -1)
    found = update(orthojax.orthogonalize(method, steps, scale="none", axes=axes), g)
    assert np.linalg.norm(found - polar(g), 2, axis=(-2, -1)).max() < error


@pytest.mark.parametrize("shape", [(8, 2), (2, 8), (2, 2, 3, 5)])
def test_the_scale_is_by_inputs_and_outputs(shape):
    inputs, outputs = int(np.prod(shape[:-1])), shape[-1]
    g = gaussian(0, shape, np.float32)
    plain = update(orthojax.orthogonalize(scale="none"), g)
    for scale, expected in (
        ("width", max(1, outputs / inputs) ** 0.5),
        ("match_rms", 0.2 * max(inputs, outputs) ** 0.5),
        ("spectral", (outputs / inputs) ** 0.5),
        (0.3, 0.3),
    ):
        scaled = update(orthojax.orthogonalize(scale=scale), g)
        np.testing.assert_allclose(scaled, expected * plain, rtol=1e-5)
    matched = update(orthojax.orthogonalize(scale="match_rms"), g)
    np.testing.assert_allclose(np.sqrt(np.mean(matched**2)), 0.2, rtol=1e-2)


def test_muon_is_its_definition(x64):
    w, grads = gaussian(9, (6, 4)), [gaussian(i, (6, 4)) for i in range(3)]
    tx = orthojax.muon(0.1, momentum=0.9, weight_decay=0.01, method="exact", scale="match_rms")
    state, moment = tx.init(w), 0
    for g in grads:
        updates, state = jax.jit(tx.update)(g, state, w)
        moment = 0.9 * moment + 0.1 * g
        nesterov = 0.9 * moment + 0.1 * g
        expected = -0.1 * (0.2 * 6**0.5 * polar(nesterov) + 0.01 * w)
        np.testing.assert_allclose(updates, expected, atol=1e-12)
        w = w + updates


def test_scion_stays_in_its_ball():
    w = 3 * orthonormal(0, (6, 4), np.float32)  # The radius is 3 sqrt(4 / 6).
    w = w * (4 / 6) ** 0.5
    target = 10 * gaussian(1, (6, 4), np.float32)
    tx = orthojax.scion(0.1, radius=3.0)

    @jax.jit
    def train(w):
        def step(carry, _):
            w, state = carry
            updates, state = tx.update(w - target, state, w)
            return (w + updates, state), jnp.linalg.norm(w + updates, 2)

        return jax.lax.scan(step, (w, tx.init(w)), length=100)

    (w, _), norms = train(jnp.asarray(w))
    assert norms.max() < 3 * (4 / 6) ** 0.5 * (1 + 1e-3)
    # A linear loss would be least at the polar factor of the target; this one is near it.
    assert np.sum(w * polar(target)) > 0.9 * 3 * (4 / 6) ** 0.5 * 4


def steepest_by_the_dual(w, g):
    """min over symmetric L of the nuclear norm of G + W L, and so max <G, A>."""
    upper = np.triu_indices(w.shape[1])

    def nuclear(x):
        multiplier = np.zeros((w.shape[1],) * 2)
        multiplier[upper] = x
        multiplier = (multiplier + multiplier.T) / 2
        u, s, vt = np.linalg.svd(g + w @ multiplier, full_matrices=False)
        slope = w.T @ u @ vt
        return s.sum(), ((slope + slope.T) / 2)[upper]

    start = np.zeros(len(upper[0]))
    return scipy.optimize.minimize(nuclear, start, jac=True, method="BFGS", tol=1e-9).fun


@pytest.mark.parametrize("shape", [(9, 3), (5, 3), (5, 4), (4, 4), (5, 5), (6, 1)])
def test_the_tangent_is_the_steepest_one(x64, shape):
    w, g = orthonormal(0, shape), gaussian(1, shape)
    a = np.asarray(jax.jit(lambda w, g: steepest_tangent(w, g, steps=12))(w, g))
    np.testing.assert_allclose(w.T @ a + a.T @ w, 0, atol=1e-6)
    assert np.linalg.norm(a, 2) < 1 + 1e-5
    np.testing.assert_allclose(np.sum(g * a), steepest_by_the_dual(w, g), rtol=1e-5)


def test_for_square_weights_it_is_the_formula_of_modula(x64):
    w, g = orthonormal(0, (6, 6)), gaussian(1, (6, 6))
    a = jax.jit(lambda w, g: steepest_tangent(w, g, steps=12))(w, g)
    np.testing.assert_allclose(a, w @ polar(w.T @ g - g.T @ w), atol=1e-5)


def test_a_tall_gradient_within_the_span_needs_no_normal_part(x64):
    w = orthonormal(0, (9, 3))
    g = w @ gaussian(1, (3, 3))
    a = np.asarray(jax.jit(lambda w, g: steepest_tangent(w, g, steps=12))(w, g))
    s = np.linalg.svd(w.T @ g - g.T @ w, compute_uv=False)  # The third is 0.
    np.testing.assert_allclose(np.sum(g * a), s[:2].sum() / 2, rtol=1e-6)
    np.testing.assert_allclose(w.T @ a + a.T @ w, 0, atol=1e-6)


@pytest.mark.parametrize("shape", [(8, 8), (7, 5), (16, 4)])
def test_weights_stay_on_the_manifold(shape):
    tx = orthojax.manifold_muon(0.05)
    w = jnp.asarray(orthonormal(0, shape, np.float32))

    @jax.jit
    def train(w):
        def step(carry, key):
            w, state = carry
            updates, state = tx.update(jax.random.normal(key, w.shape), state, w)
            return (w + updates, state), None

        keys = jax.random.split(jax.random.key(0), 1000)
        return jax.lax.scan(step, (w, tx.init(w)), keys)[0][0]

    assert defect(train(w)) < 2e-6


def test_manifold_muon_finds_the_nearest_orthonormal_matrix():
    target = gaussian(0, (8, 3), np.float32)
    tx = orthojax.manifold_muon(optax.linear_schedule(0.1, 0.0, 200), momentum=0.5)

    @jax.jit
    def train(w):
        def step(_, carry):
            w, state = carry
            updates, state = tx.update(w - target, state, w)
            return w + updates, state

        return jax.lax.fori_loop(0, 200, step, (w, tx.init(w)))[0]

    w = train(jnp.asarray(orthonormal(1, (8, 3), np.float32)))
    np.testing.assert_allclose(w, polar(target), atol=2e-3)


def test_bad_arguments_are_errors_that_name_them():
    for make, match in (
        (lambda: orthojax.orthogonalize("svd"), r"`method`.*polar_express.*got 'svd'"),
        (lambda: orthojax.orthogonalize(scale="wide"), r"`scale`.*match_rms.*got 'wide'"),
        (lambda: orthojax.orthogonalize(steps=0), r"`steps`.*got 0"),
        (lambda: orthojax.orthogonalize("exact", 3), r"`steps`.*got 3"),
        (lambda: orthojax.orthogonalize_tangent(steps=0), r"`steps`.*got 0"),
        (lambda: orthojax.spectral_sphere(0.1, radius=0.0), r"`radius`.*got 0"),
        (lambda: orthojax.spectral_sphere(0.1, solves=0), r"`solves`.*got 0"),
    ):
        with pytest.raises(ValueError, match=match):
            make()
    with pytest.raises(ValueError, match="needs the current weights"):
        orthojax.orthogonalize_tangent().update({}, optax.EmptyState())


def best_on_the_sphere(w, g):
    """max <G, X> over |X|_2 <= 1, u'X v = 0: the least nuclear norm of G + m u v'."""
    u, _, vt = np.linalg.svd(w)
    nuclear = lambda m: np.linalg.norm(g + m * np.outer(u[:, 0], vt[0]), "nuc")
    return scipy.optimize.minimize_scalar(nuclear, tol=1e-12).fun


@pytest.mark.parametrize("shape", [(6, 4), (4, 4)])
def test_the_tangent_of_the_spectral_sphere_is_the_steepest_one(x64, shape):
    for seed in range(4):
        w, g = gaussian(seed, shape), gaussian(9 + seed, shape)
        u, _, vt = np.linalg.svd(w)
        u, v = u[:, :1], vt[:1].T
        x = jax.jit(lambda u, v, g: sphere_tangent(u, v, g, steps=10))(u, v, g)
        np.testing.assert_allclose(u.T @ x @ v, 0, atol=1e-12)
        np.testing.assert_allclose(np.sum(g * x), best_on_the_sphere(w, g), rtol=1e-3)
        assert np.linalg.norm(x, 2) < 1 + 1e-4


def test_weights_stay_on_the_spectral_sphere_and_the_loss_falls():
    target = gaussian(0, (6, 4), np.float32)
    schedule = optax.linear_schedule(0.1, 0.0, 100)
    tx = orthojax.spectral_sphere(schedule, radius=2.0, momentum=0.5, iterations=20)

    @jax.jit
    def train(w):
        def step(carry, _):
            w, state = carry
            updates, state = tx.update(w - target, state, w)
            w = w + updates
            return (w, state), (jnp.linalg.norm(w, 2), jnp.sum((w - target) ** 2))

        return jax.lax.scan(step, (w, tx.init(w)), length=100)[1]

    norms, losses = train(jnp.asarray(gaussian(1, (6, 4), np.float32)))
    assert abs(norms / 2 - 1).max() < 0.05
    # The nearest matrix of the ball, its largest singular value clipped.
    excess = np.maximum(np.linalg.svd(target, compute_uv=False) - 2, 0)
    assert losses[-1] < np.sum(excess**2) + 0.05
