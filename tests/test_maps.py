"""The laws of every parameterization, one test a law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matrices_of import defect, gaussian, orthonormal

import orthojax
from orthojax.linalg import tangent

PARAMETERIZATIONS = {
    "cayley": orthojax.cayley(),
    "exponential": orthojax.exponential(),
    "householder": orthojax.householder(),
    "householder_2": orthojax.householder(reflections=2),
    "polar": orthojax.polar(),
    "qr": orthojax.qr(),
    "qr_cholesky": orthojax.qr(method="cholesky"),
}
# Op by op, every primitive would be a program of its own.
PARAMETERIZATIONS = {
    name: p._replace(init=jax.jit(p.init), forward=jax.jit(p.forward))
    for name, p in PARAMETERIZATIONS.items()
}


def _with_gradient(p):
    """(base, theta) -> W and the gradient of sum(W^3): one program for several laws."""

    def weights(theta, base):
        w = p.forward(base, theta)
        return jnp.sum(w**3), w

    @jax.jit
    def evaluate(base, theta):
        (_, w), gradient = jax.value_and_grad(weights, has_aux=True)(theta, base)
        return w, gradient

    return evaluate


WITH_GRADIENT = {name: _with_gradient(p) for name, p in PARAMETERIZATIONS.items()}
RETRACTIONS = {k: p for k, p in PARAMETERIZATIONS.items() if p.is_retraction}
# Square, tall, less than twice as tall as wide, and a batch.
SHAPES = [(4, 4), (5, 4), (2, 7, 3)]
EDGES = [(1, 1), (5, 1), (7, 3), (2, 4, 4)]


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"):
        yield


every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
even_edges = pytest.mark.parametrize(
    "shape",
    [*SHAPES, EDGES[1], *(pytest.param(e, marks=pytest.mark.slow) for e in EDGES if e != EDGES[1])],
    ids=str,
)


def every(table):
    return pytest.mark.parametrize("name", table)


def started(name, shape, seed=0):
    if name == "householder_2" and shape[-1] < 2:
        pytest.skip("Two reflections need two columns.")
    p = PARAMETERIZATIONS[name]
    return p, *p.init(orthonormal(seed, shape))


def moved(theta, seed=1, scale=0.5):
    return theta + scale * gaussian(seed, theta.shape)


@every(PARAMETERIZATIONS)
@even_edges
def test_init_is_a_right_inverse_of_forward(x64, name, shape):
    _, base, theta = started(name, shape)
    w, _ = WITH_GRADIENT[name](base, theta)
    np.testing.assert_allclose(w, orthonormal(0, shape), atol=1e-13)


@every(PARAMETERIZATIONS)
@even_edges
def test_forward_is_orthogonal_for_any_theta(x64, name, shape):
    _, base, theta = started(name, shape)
    w, _ = WITH_GRADIENT[name](base, moved(theta, scale=3))
    assert defect(w) < 1e-12


@every(PARAMETERIZATIONS)
@even_edges
def test_the_gradient_is_finite_at_init(x64, name, shape):
    _, gradient = WITH_GRADIENT[name](*started(name, shape)[1:])
    assert jnp.isfinite(gradient).all()


@every(PARAMETERIZATIONS)
@every_shape
def test_changing_the_base_leaves_the_weights_unchanged(x64, name, shape):
    p, base, theta = started(name, shape)
    w = p.forward(base, moved(theta))
    np.testing.assert_allclose(p.forward(*p.init(w)), w, atol=1e-13)


@every(RETRACTIONS)
@every_shape
def test_the_derivative_of_a_retraction_at_its_base_is_the_identity(x64, name, shape):
    p, base, theta = started(name, shape)
    xi = tangent(base, gaussian(2, shape))
    _, moved_by = jax.jvp(lambda t: p.forward(base, t), (theta,), (xi,))
    np.testing.assert_allclose(moved_by, xi, atol=1e-12)


@every(PARAMETERIZATIONS)
@every_shape
def test_the_gradient_is_that_of_differences(x64, name, shape):
    _, base, theta = started(name, shape)
    theta, direction = moved(theta), gaussian(3, theta.shape)
    f = lambda t: float(jnp.sum(WITH_GRADIENT[name](base, t)[0] ** 3))
    h = 1e-5
    by_difference = (f(theta + h * direction) - f(theta - h * direction)) / (2 * h)
    _, gradient = WITH_GRADIENT[name](base, theta)
    np.testing.assert_allclose(np.sum(gradient * direction), by_difference, rtol=1e-6, atol=1e-8)


@every([k for k, p in RETRACTIONS.items() if p.pull_back is not None])
@every_shape
def test_a_closed_form_pull_back_equals_the_vjp_of_forward(x64, name, shape):
    p, base, theta = started(name, shape)
    theta, g = moved(theta), gaussian(2, shape)
    w, vjp = jax.vjp(lambda t: p.forward(base, t), theta)
    np.testing.assert_allclose(p.pull_back(base, theta, w, g), vjp(g)[0], atol=1e-12)


@pytest.mark.parametrize("name", ["cayley", "exponential"])
@pytest.mark.parametrize("shape", [(4, 4), (7, 3), (5, 4)])
def test_tall_forms_equal_the_action_of_the_n_by_n_rotation(x64, name, shape):
    import scipy.linalg

    p, base, theta = started(name, shape)
    theta = moved(theta)
    t = theta - base @ base.T @ theta / 2
    a, eye = np.asarray(t @ base.T - base @ t.T), np.eye(shape[0])
    rotation = {
        "cayley": np.linalg.solve(eye - a / 2, eye + a / 2),
        "exponential": scipy.linalg.expm(a),
    }[name]
    np.testing.assert_allclose(p.forward(base, theta), rotation @ base, atol=1e-12)


@pytest.mark.parametrize("name", ["cayley", "exponential", "householder", "polar", "qr"])
@pytest.mark.parametrize("determinant", [1, -1])
def test_both_components_of_the_orthogonal_group_are_kept(x64, name, determinant):
    w = orthonormal(0, (4, 4))
    w[:, 0] *= np.linalg.det(w) * determinant
    p = PARAMETERIZATIONS[name]
    base, theta = p.init(w)
    np.testing.assert_allclose(np.linalg.det(p.forward(base, moved(theta))), determinant)


def test_the_eigenvalue_minus_one_is_in_the_base_of_cayley(x64):
    p = orthojax.cayley()
    signs = np.diag([1.0, -1.0, -1.0])
    np.testing.assert_allclose(p.forward(*p.init(signs)), signs, atol=1e-15)


@every(PARAMETERIZATIONS)
def test_orthogonality_in_float32(name):
    p = PARAMETERIZATIONS[name]
    for shape in [(64, 64), (128, 32)]:
        base, theta = p.init(orthonormal(0, shape, np.float32))
        moved = theta + 0.1 * gaussian(1, theta.shape, np.float32)
        assert defect(p.forward(base, moved)) < 3e-6


@pytest.mark.parametrize("reflections", [0, -1, 5])
def test_a_bad_number_of_reflections_is_an_error_that_names_it(reflections):
    with pytest.raises(ValueError, match=f"`reflections`.*got {reflections}"):
        orthojax.householder(reflections).init(jnp.eye(4, 3))


def test_integer_and_complex_kernels_are_an_error():
    for w in (jnp.eye(3, dtype=int), jnp.eye(3, dtype=complex)):
        with pytest.raises(TypeError, match="floating-point"):
            orthojax.cayley().init(w)
