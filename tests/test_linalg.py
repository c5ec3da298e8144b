import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from matrices_of import defect, gaussian, orthonormal

from orthojax import decompositions, linalg
from orthojax.maps.cayley import cayley_map
from orthojax.maps.exponential import _degree_8, _degree_12, expm
from orthojax.maps.householder import reflect

SHAPES = [(1, 1), (4, 4), (6, 3), (2, 5, 2)]


def nearest_orthonormal(x):
    u, _, vt = np.linalg.svd(x, full_matrices=False)
    return u @ vt


@pytest.mark.parametrize("shape", SHAPES)
def test_orthonormalize_is_the_polar_factor_of_the_svd(x64, shape):
    x = gaussian(0, shape)
    np.testing.assert_allclose(decompositions.orthonormalize(x), nearest_orthonormal(x), atol=1e-11)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("condition", [1.0, 1e3, 1e6])
def test_orthonormalize_converges_in_float32_at_any_scale_and_condition(scale, condition):
    u, v = orthonormal(0, (40, 20)), orthonormal(1, (20, 20))
    x = (scale * (u * np.geomspace(1, 1 / condition, 20)) @ v.T).astype(np.float32)
    w = decompositions.orthonormalize(x)
    assert defect(w) < 2e-6
    np.testing.assert_allclose(w, u @ v.T, atol=2e-6 * condition)


def test_orthonormalize_of_deficient_matrices_is_orthonormal():
    for x in (np.zeros((6, 3)), np.ones((6, 3)), np.eye(6, 3)[:, ::-1] * [1, 1, 0]):
        assert defect(decompositions.orthonormalize(x.astype(np.float32))) < 1e-6


def test_orthonormalize_keeps_the_converged_members_of_a_batch():
    w = orthonormal(0, (5, 3))
    batch = np.stack([w, gaussian(1, (5, 3)), np.zeros((5, 3))]).astype(np.float32)
    np.testing.assert_allclose(decompositions.orthonormalize(batch)[0], w, atol=2e-6)


def test_nan_stays_nan_and_ends():
    assert jnp.isnan(decompositions.orthonormalize(jnp.full((3, 2), jnp.nan))).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_derivative_of_polar_is_that_of_differences(x64, shape):
    x, dx = gaussian(0, shape), gaussian(1, shape)
    h = 1e-6
    by_difference = (nearest_orthonormal(x + h * dx) - nearest_orthonormal(x - h * dx)) / (2 * h)
    _, tangent = jax.jvp(decompositions.polar, (x,), (dx,))
    np.testing.assert_allclose(tangent, by_difference, atol=1e-7, rtol=1e-6)


def test_derivative_of_polar_is_finite_where_singular_values_coincide(x64):
    w, g = orthonormal(0, (5, 3)), gaussian(1, (5, 3))
    (pulled,) = jax.vjp(decompositions.polar, w)[1](g)
    np.testing.assert_allclose(pulled, linalg.tangent(w, g), atol=1e-12)


@pytest.mark.parametrize("method", ["householder", "cholesky"])
@pytest.mark.parametrize("shape", SHAPES)
def test_qr_positive_and_its_derivative_are_those_of_jax_with_positive_diagonal(x64, shape, method):
    x, dx = gaussian(0, shape), gaussian(1, shape)

    def oracle(x):
        q, r = jnp.linalg.qr(x)
        return q * jnp.sign(jnp.diagonal(r, axis1=-2, axis2=-1))[..., None, :]

    expected = jax.jvp(oracle, (x,), (dx,))
    actual = jax.jvp(lambda x: decompositions.qr_positive(x, method), (x,), (dx,))
    np.testing.assert_allclose(actual[0], expected[0], atol=1e-11)
    np.testing.assert_allclose(actual[1], expected[1], atol=1e-10)


def test_a_zero_on_the_diagonal_of_r_erases_no_column(x64):
    assert defect(decompositions.qr_positive(jnp.diag(jnp.array([1.0, 0.0, 2.0])))) < 1e-14


@pytest.mark.parametrize("by_gram", [False, True])
@pytest.mark.parametrize("shape", [(20, 20), (40, 20), (3, 12, 4)])
def test_polar_express_is_near_the_nearest_orthonormal_matrix(x64, shape, by_gram):
    x = 1e-20 * gaussian(0, shape)
    factor = decompositions.polar_express(x, 10, by_gram)
    np.testing.assert_allclose(factor, nearest_orthonormal(x), atol=1e-5)
    few = np.linalg.svd(decompositions.polar_express(x, 5, by_gram), compute_uv=False)
    assert np.all(few < 1.006)  # From 3e-3 on within 5e-3, smaller ones below.
    assert np.sqrt(np.mean((few - 1) ** 2)) < 0.1
    assert not decompositions.polar_express(np.zeros(shape), by_gram=by_gram).any()


def test_each_step_of_the_quintic_schedule_is_the_best_on_what_the_one_before_leaves():
    low, high = 1e-3, 1.0
    for i, (a, b, c) in enumerate(decompositions.quintic_schedule(1e-3, 5)):
        step = lambda x, a=a, b=b, c=c: a * x + b * x**3 + c * x**5
        safe = 1.01 if i == 0 or high > 1.2 else 1.0  # What is stepped is X / 1.01.
        error = step(safe * np.linspace(low, high, 20_001)) - 1
        most = np.abs(error).max()
        # Chebyshev: as large at four points, with alternating signs.
        extreme = np.sign(error[np.abs(error) > most * (1 - 1e-5)])
        assert list(extreme[np.r_[True, np.diff(extreme) != 0]]) == [-1, 1, -1, 1]
        low, high = step(low), 1 + most
    assert most < 0.15
    with pytest.raises(ValueError, match="`steps`"):
        decompositions.polar_express(jnp.eye(2), 0)


@pytest.mark.parametrize("by_gram", [True, False])
@pytest.mark.parametrize("steps", [5, 8, 12])
def test_no_singular_value_grows_beyond_one_where_there_is_one_large_one(by_gram, steps):
    # Rounding at the end of the range, and of X'X, must not grow from step to step.
    u, v = orthonormal(0, (20, 36, 8)), orthonormal(1, (20, 8, 8))
    for rest in (0.0, 1e-4, 1e-3):
        s = np.r_[1.0, np.full(7, rest)]
        x = ((u * s) @ np.swapaxes(v, -1, -2)).astype(np.float32)
        factor = jax.jit(lambda x: decompositions.polar_express(x, steps, by_gram))(x)
        assert np.linalg.norm(factor, 2, axis=(-2, -1)).max() < 1.006


def test_a_matrix_that_is_orthonormal_to_rounding_stays_as_it_is():
    w = orthonormal(0, (40, 20)).astype(np.float32)
    np.testing.assert_array_equal(decompositions.orthonormalize(w), w)
    drifted = w * np.float32(1 + 1e-5)
    assert defect(decompositions.orthonormalize(drifted)) < 1e-6


def skew(seed, shape, norm):
    x = gaussian(seed, shape)
    a = x - np.swapaxes(x, -1, -2)
    return norm * a / np.linalg.norm(a, 2, axis=(-2, -1))[..., None, None]


def torus(angles):
    """Skew with 2x2 blocks: the 1-norm equals the 2-norm, where jax's expm is off by 4e-3."""
    return scipy.linalg.block_diag(*[[[0, -t], [t, 0]] for t in angles])


@pytest.mark.parametrize("degree", [8, 12])
def test_the_polynomials_of_expm_are_those_of_taylor(x64, degree):
    # On shift matrices a product is that of polynomials in the shift.
    shift = jnp.eye(degree + 1, k=-1)
    taylor = {8: _degree_8, 12: _degree_12}[degree](shift, shift @ shift)[:, 0]
    factorials = np.cumprod(np.r_[1.0, np.arange(1, degree + 1)])
    # The numbers of degree 12 are known to 1e-13.
    np.testing.assert_allclose(taylor * factorials, 1, rtol={8: 1e-14, 12: 1e-9}[degree])
    np.testing.assert_allclose(taylor, 1 / factorials, atol=5e-15)


@pytest.mark.parametrize("norm", [0.0, 1e-3, 1.0, 3.7, 3.9, 7.8, 31.0, 64.0])
def test_expm_is_the_rotation_of_scipy_in_both_precisions(x64, norm):
    for a in (skew(0, (9, 9), norm), torus(np.linspace(norm / 3, norm, 4))):
        a = a.astype(np.float32).astype(np.float64)
        expected = scipy.linalg.expm(a)
        np.testing.assert_allclose(expm(a), expected, atol=4e-15 * (1 + norm))
        single = expm(a.astype(np.float32))
        assert single.dtype == np.float32
        assert np.abs(single - expected).max() <= 1e-6 * (1 + norm / 4)


def test_expm_of_a_batch_and_under_vmap_is_that_of_each_matrix():
    norms = np.array([0.0, 0.1, 5.0, 40.0])
    a = np.stack([skew(i, (4, 4), norm) for i, norm in enumerate(norms)]).astype(np.float32)
    each = np.stack([expm(x) for x in a])
    for batched in (expm(a), jax.vmap(expm)(a)):
        error = np.abs(batched - each).max((-2, -1))
        np.testing.assert_array_less(error, 1e-6 * (1 + norms / 4))
    gradient = jax.grad(lambda x: jnp.sum(expm(x)[0] ** 3))
    np.testing.assert_allclose(jax.vmap(gradient)(a), np.stack([gradient(x) for x in a]), atol=2e-5)


def test_expm_under_vmap_branches_on_one_number():
    a = jnp.zeros((3, 4, 4))
    assert str(jax.make_jaxpr(jax.vmap(expm))(a)).count("cond[") == str(
        jax.make_jaxpr(expm)(a[0])
    ).count("cond[")


@pytest.mark.parametrize("norm", [0.0, 0.5, 6.0])
def test_derivative_of_expm_is_the_frechet_derivative_of_scipy(x64, norm):
    a, da = skew(0, (6, 6), norm), gaussian(1, (6, 6))
    _, expected = scipy.linalg.expm_frechet(a, da)
    np.testing.assert_allclose(jax.jvp(expm, (a,), (da,))[1], expected, atol=1e-12)
    _, transposed = scipy.linalg.expm_frechet(a.T, da)
    np.testing.assert_allclose(jax.vjp(expm, a)[1](da)[0], transposed, atol=1e-12)


def test_expm_beyond_its_range_is_nan_and_not_a_wrong_rotation():
    assert jnp.isnan(expm(jnp.array([[0.0, -1e6], [1e6, 0.0]]))).all()


def test_cayley_map_is_its_formula(x64):
    a, eye = skew(0, (5, 5), 7.0), np.eye(5)
    expected = np.linalg.solve(eye - a / 2, eye + a / 2)
    np.testing.assert_allclose(cayley_map(a), expected, atol=1e-13)


def product_of_reflections(v, x):
    for u in v.T[::-1]:
        x = x - 2 * np.outer(u, u @ x) / (u @ u)
    return x


@pytest.mark.parametrize(("n", "k", "p"), [(1, 1, 1), (4, 4, 4), (6, 3, 3), (6, 2, 4)])
def test_reflect_is_the_product_of_its_reflections(x64, n, k, p):
    v, x = gaussian(0, (n, k)), gaussian(1, (n, p))
    np.testing.assert_allclose(reflect(v, x), product_of_reflections(v, x), atol=1e-12)
    expected = product_of_reflections(v, np.eye(n, k))
    np.testing.assert_allclose(reflect(v), expected, atol=1e-12)


def test_reflections_ignore_the_length_of_their_normals_and_survive_zero_ones():
    v = gaussian(0, (5, 3), np.float32)
    scaled = reflect(v * np.array([1e-30, 1.0, 1e30], np.float32))
    np.testing.assert_allclose(scaled, reflect(v), atol=1e-6)
    v[:, 1] = 0
    np.testing.assert_allclose(reflect(v), reflect(v[:, [0, 2]], np.eye(5, 3)), atol=1e-6)
    assert jnp.isfinite(jax.grad(lambda v: jnp.sum(reflect(v) ** 3))(v)).all()


def test_reflect_has_the_derivative_of_the_explicit_product(x64):
    v, g = gaussian(0, (5, 3)), gaussian(1, (5, 3))

    def explicit(v):
        x = jnp.eye(5, 3)
        for i in (2, 1, 0):
            u = v[:, i]
            x = x - 2 * jnp.outer(u, u @ x) / (u @ u)
        return x

    (expected,) = jax.vjp(explicit, v)[1](g)
    np.testing.assert_allclose(jax.vjp(reflect, v)[1](g)[0], expected, atol=1e-12)
