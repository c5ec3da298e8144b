"""POGO and landing against closed forms in NumPy, their laws of error, their cost and drift."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend import core
from matrices_of import defect, gaussian, orthonormal

from orthojax import landing, pogo
from orthojax.matrices import MatrixAxes
from orthojax.transforms.landing import _spectral_bound

SHAPES = [(4, 4), (6, 3)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
every_order = pytest.mark.parametrize("order", ["cubic", "quintic"])
# Made once: `moved` compiles once for each, and shape.
POGO = {
    (order, metric): pogo(order, 1.0, metric)
    for order in ("cubic", "quintic")
    for metric in ("canonical", "euclidean")
}
LINKS = {"cubic": pogo("cubic"), "quintic": pogo(), "landing": landing()}
STACKS = {order: pogo(order, axes=MatrixAxes(-2, -1)) for order in ("cubic", "quintic")}
every_link = pytest.mark.parametrize("link", LINKS)


@functools.partial(jax.jit, static_argnums=0)
def moved(tx, w, u):
    """The weights after the step u from w."""
    return w + tx.update(u, optax.EmptyState(), w)[0]


def spectral(x):
    return np.linalg.norm(x, 2)


def distance(w):
    """|W'W - I|_F."""
    return np.linalg.norm(w.T @ w - np.eye(w.shape[1]))


def relative(w, u):
    """skew(UW') W, by n x n matrices as in the papers."""
    return (u @ w.T - w @ u.T) @ w / 2


def tangent_step(metric, w, u):
    if metric == "canonical":
        return relative(w, u)
    return w @ (w.T @ u - u.T @ w) / 2 + u - w @ w.T @ u


@every_shape
@every_order
@pytest.mark.parametrize("metric", ["canonical", "euclidean"])
def test_pogo_is_the_polynomial_of_the_tangent_step(x64, metric, order, shape):
    w = orthonormal(0, shape)
    s = tangent_step(metric, w, gaussian(1, shape))
    scale = 0.2 / spectral(s)
    left, sigma, right = np.linalg.svd(w + scale * s, full_matrices=False)
    e = sigma**2 - 1
    factor = 1 - e / 2 + (order == "quintic") * 3 / 8 * e**2
    expected = left @ np.diag(sigma * factor) @ right
    actual = moved(POGO[order, metric], w, scale * gaussian(1, shape))
    np.testing.assert_allclose(actual, expected, atol=1e-13)


def law(order, size):
    """Leading order of |W'W - I|_2 after a step of |S|_2 = size."""
    return 3 / 4 * size**4 if order == "cubic" else 5 / 8 * size**6


@every_shape
@every_order
@pytest.mark.parametrize("size", [0.1, 0.2, 0.4])
def test_the_error_of_one_step_follows_its_law(x64, size, order, shape):
    w = orthonormal(0, shape)
    u = size / spectral(relative(w, gaussian(1, shape))) * gaussian(1, shape)
    after = np.asarray(moved(POGO[order, "canonical"], w, u))
    error = spectral(after.T @ after - np.eye(shape[1]))
    assert (1 - size**2) * law(order, size) < error < law(order, size)


@every_shape
def test_pogo_leaves_a_tangent_step_in_the_euclidean_metric(x64, shape):
    w = orthonormal(0, shape)
    s = 1e-3 * tangent_step("euclidean", w, gaussian(1, shape))
    # The polynomial shortens the columns of W + S to length one.
    expected = w + s - w @ (s.T @ s) / 2
    np.testing.assert_allclose(moved(POGO["quintic", "euclidean"], w, s), expected, atol=1e-8)


@pytest.mark.parametrize("scale", [1.0, 1e10, 1e30])
@every_order
def test_steps_are_clipped_at_the_largest_and_others_of_the_batch_are_not(order, scale):
    w = orthonormal(0, (2, 16, 16), np.float32)
    u = gaussian(1, (2, 16, 16), np.float32) * np.float32([[[scale]], [[1e-3]]])
    after = moved(STACKS[order], w, u)
    skew_of = lambda x: (x - x.T) / 2
    wanted, turned = (skew_of(w[0].T.astype(np.float64) @ x) for x in (u[0], np.asarray(after[0])))
    # A step c S turns by the angles atan(c sigma): tangents up to 1/2, or as much less as the bound
    # overestimates.
    sine = spectral(turned)
    tangent = sine / np.sqrt(1 - sine**2)
    assert 0.5 / 16 ** (1 / 16) * 0.98 < tangent < 0.5 * 1.02
    assert np.sum(turned * wanted) / np.linalg.norm(turned) / np.linalg.norm(wanted) > 0.99
    np.testing.assert_allclose(after[1:], moved(STACKS[order], w[1:], u[1:]), atol=2e-7)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_spectral_bound_is_one_and_close(scale):
    x = np.stack([gaussian(0, (12, 8)), orthonormal(1, (12, 8)), np.ones((12, 8))])
    bound = np.asarray(_spectral_bound(jnp.asarray(scale * x, jnp.float32)))
    ratio = bound / (scale * np.linalg.norm(x, 2, axis=(-2, -1)))
    assert (ratio > 1 - 1e-5).all()
    assert (ratio < 8 ** (1 / 16)).all()
    np.testing.assert_allclose(ratio[1:], 1, rtol=1e-5)
    assert _spectral_bound(jnp.zeros((3, 2))) == 0


@every_shape
def test_landing_is_the_field_of_the_papers_off_the_manifold_too(x64, shape):
    w = orthonormal(0, shape) + 0.08 * gaussian(1, shape)
    u = 0.1 * gaussian(2, shape)
    assert 0.1 < distance(w) < 0.5
    # For square W, W skew(W'U): the same on the manifold, and orthogonal to the attraction off it.
    field = relative(w, u) if shape[0] > shape[1] else w @ (w.T @ u - u.T @ w) / 2
    expected = w + field - 0.2 * w @ (w.T @ w - np.eye(shape[1]))
    tx = landing(attraction=0.2, safe_distance=0.9)
    np.testing.assert_allclose(moved(tx, w, u), expected, atol=1e-14)
    if shape[0] > shape[1]:  # Wide ones are transposed.
        np.testing.assert_allclose(moved(tx, w.T, u.T), expected.T, atol=1e-14)


@every_shape
@pytest.mark.parametrize("scale", [1.0, 1e3, 1e30])
def test_the_safe_step_of_landing_stays_within_its_distance(shape, scale):
    for seed, off in enumerate((0.0, 0.02, 0.05)):
        w = orthonormal(seed, shape, np.float32) + np.float32(off) * gaussian(8, shape, np.float32)
        u = np.float32(scale) * gaussian(seed + 3, shape, np.float32)
        after = np.asarray(moved(LINKS["landing"], w, u), np.float64)
        assert distance(after) < 0.5 + 1e-5


def test_the_safe_step_is_the_longest_one(x64):
    # For one column the bound is exact: a long step from the sphere ends at the distance.
    w = orthonormal(0, (5, 1))
    after = moved(landing(safe_distance=0.3), w, 100 * gaussian(1, (5, 1)))
    np.testing.assert_allclose(distance(after), 0.3, rtol=1e-12)


@every_link
def test_a_change_of_basis_changes_the_step_alike(x64, link):
    w, u = orthonormal(0, (6, 3)), 0.1 * gaussian(1, (6, 3))
    q, p = orthonormal(2, (6, 6)), orthonormal(3, (3, 3))
    turned = moved(LINKS[link], q @ w @ p, q @ u @ p)
    np.testing.assert_allclose(turned, q @ moved(LINKS[link], w, u) @ p, atol=1e-14)


@every_link
def test_weights_far_from_the_manifold_are_brought_there_by_the_first_update(link):
    w, zero = gaussian(0, (6, 3), np.float32), np.zeros((6, 3), np.float32)
    left, _, right = np.linalg.svd(w, full_matrices=False)
    np.testing.assert_allclose(moved(LINKS[link], w, zero), left @ right, atol=1e-5)
    for start in (w, zero):
        assert defect(moved(LINKS[link], start, zero)) < 2e-6


def products(jaxpr):
    """Flops of the products that run at every call: not those in branches."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
            total += np.prod(out) * np.prod([left[i] for i in contracted])
        if equation.primitive.name != "cond":
            for sub in core.jaxprs_in_params(equation.params):
                total += products(sub)
    return total


@pytest.mark.parametrize(
    ("tx", "square", "tall"),
    [
        (pogo("cubic"), 4, 4),
        (pogo("cubic", metric="euclidean"), 4, 4),
        (pogo("quintic"), 5, 4.25),
        (landing(), 4, 4),
    ],
    ids=["cubic", "euclidean", "quintic", "landing"],
)
def test_the_products_of_a_step(tx, square, tall):
    for shape, expected in (((8, 8), square), ((32, 8), tall), ((8, 32), tall)):
        w = jnp.ones(shape)
        jaxpr = jax.make_jaxpr(lambda u, w: tx.update(u, optax.EmptyState(), w)[0])(w, w)
        assert products(jaxpr.jaxpr) / (max(shape) * 8**2) == expected


@every_link
def test_drift_is_bounded_over_ten_thousand_steps_of_noise(link):
    def step(w, key):
        u = 0.05 * jax.random.normal(key, w.shape)
        return moved(LINKS[link], w, u), (w, u)

    keys = jax.random.split(jax.random.key(0), 10_000)
    w = jnp.asarray(orthonormal(0, (6, 3), np.float32))
    w, u = map(np.asarray, jax.jit(lambda w: jax.lax.scan(step, w, keys)[1])(w))
    distances = np.linalg.norm(w.mT @ w - np.eye(3, dtype=w.dtype), axis=(-2, -1))
    sizes = np.linalg.norm((u - w @ (u.mT @ w)) / 2, 2, axis=(-2, -1))
    # What a step leaves; the attraction of landing is .1, so that the distance is up to 1/.2 of it.
    left = 5 * sizes.max() ** 2 if link == "landing" else law(link, sizes.max())
    assert distances[1:].max() < 3**0.5 * left + 1e-6
    assert distances[-1000:].max() < 2 * distances[1:1000].max()


@every_link
def test_momentum_before_it_finds_the_nearest_matrix(x64, link):
    target = gaussian(0, (6, 3))
    u, _, vt = np.linalg.svd(target, full_matrices=False)
    tx = optax.chain(optax.sgd(0.1, momentum=0.8), LINKS[link])

    @jax.jit
    def train(w):
        def step(_, carry):
            w, state = carry
            updates, state = tx.update(w - target, state, w)
            return optax.apply_updates(w, updates), state

        return jax.lax.fori_loop(0, 1000, step, (w, tx.init(w)))[0]

    w = train(jnp.asarray(orthonormal(1, (6, 3))))
    np.testing.assert_allclose(w, u @ vt, atol=1e-10)


def test_bad_arguments_are_errors_that_name_them():
    for make, match in (
        (lambda: pogo(5), r"`order`.*got 5"),
        (lambda: pogo(max_step=2.0), r"`max_step`.*got 2"),
        (lambda: pogo(metric="flat"), r"`metric`.*got 'flat'"),
        (lambda: landing(attraction=1.0), r"`attraction`.*at most 0.5, got 1.0"),
        (lambda: landing(safe_distance=0), r"`safe_distance`.*got 0"),
    ):
        with pytest.raises(ValueError, match=match):
            make()


def test_the_largest_step_can_be_a_schedule():
    w, u = orthonormal(0, (4, 4), np.float32), gaussian(1, (4, 4), np.float32)
    tx = optax.inject_hyperparams(pogo)(max_step=optax.constant_schedule(0.1))
    updates, _ = jax.jit(tx.update)(u, tx.init(w), w)
    assert 0.09 < spectral(updates) < 0.11
