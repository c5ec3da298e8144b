"""Flows: log-determinants against those of the Jacobian, inverses against the forward map."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import nnx
from matrices_of import orthonormal

import orthojax
from experiments import studies
from experiments.configs import flows_toys
from experiments.data import toys
from experiments.models.vae import POSTERIORS, VAE
from experiments.studies import density
from orthojax import flows
from orthojax.maps.householder import reflect
from orthojax.nn.flows import Flow, HouseholderFlow, InvertibleLinear, Planar, Sylvester

N, P, K = 5, 3, 2


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def constrained(function):
    """`function` of R and R~ with diagonals whose products go far below -1 and above 1."""
    return lambda z, q, r, r_tilde, bias: function(
        z, q, flows.invertible(3 * r, 2 * r_tilde), 2 * r_tilde, bias
    )


# {name: (map, inverse, shapes of the parameters of a point)}; "Q" of a shape is orthonormal.
CASES = {
    "householder": (
        flows.householder_flow,
        lambda y, v: flows.householder_flow(y, v[..., ::-1]),
        [(N, K)],
    ),
    "sylvester": (
        constrained(flows.sylvester),
        constrained(flows.sylvester_inverse),
        [("Q", N, P), (P, P), (P, P), (P,)],
    ),
    "householder_sylvester": (
        constrained(flows.householder_sylvester),
        constrained(flows.householder_sylvester_inverse),
        [(N, K), (N, N), (N, N), (N,)],
    ),
    "planar": (
        lambda z, u, w, bias: flows.planar(z, 3 * u, w - u, bias),
        lambda y, u, w, bias: flows.planar_inverse(y, 3 * u, w - u, bias),
        [(N,), (N,), ()],
    ),
    "qr_linear": (flows.qr_linear, flows.qr_linear_inverse, [("Q", N, N), (N, N)]),
}


def parameters(name, *batch):
    return [
        orthonormal(i, (*batch, *shape[1:])) if "Q" in shape else draw(i, *batch, *shape)
        for i, shape in enumerate(CASES[name][2], start=1)
    ]


@pytest.mark.parametrize("name", CASES)
def test_log_determinants_inverses_and_amortized_parameters(name):
    forward, inverse, _ = CASES[name]
    z, own = 2 * draw(0, 4, N), parameters(name, 4)
    # Shared parameters, with two axes of points: those of the first, for all.
    points = jnp.stack([z[:1], z[:1], -z[:1]])

    @jax.jit
    def all_of(z, own, points, shared):
        y, log_det = forward(z, *own)
        jacobian = jax.vmap(jax.jacobian(lambda z, *own: forward(z, *own)[0]))(z, *own)
        again, shared_log_det = forward(points, *shared)
        inverses = *inverse(y, *own), *inverse(again, *shared)
        return y, log_det, jacobian, again, shared_log_det, inverses

    y, log_det, jacobian, again, shared_log_det, inverses = all_of(
        z, own, points, [x[0] for x in own]
    )
    np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], atol=1e-10)
    np.testing.assert_allclose(again[1, 0], y[0], atol=1e-13)
    np.testing.assert_allclose(shared_log_det[1, 0], log_det[0], atol=1e-13)
    for result, expected in zip(inverses, (z, -log_det, points, -shared_log_det), strict=True):
        np.testing.assert_allclose(result, expected, atol=1e-9)


def test_householder_flow_is_the_product_of_its_reflections():
    v, z = draw(0, N, K), draw(1, N)
    expected = np.asarray(z)
    for x in np.asarray(v).T[::-1]:
        expected = expected - 2 * x * (x @ expected) / (x @ x)
    shared = jax.jit(lambda v: flows.householder_flow(z, v)[0])
    amortized = jax.jit(lambda v: flows.householder_flow(z[None], v[None])[0][0])
    np.testing.assert_allclose(shared(v), expected, atol=1e-13)
    np.testing.assert_allclose(amortized(v), expected, atol=1e-13)
    # Normals of zeros reflect nothing, and have a finite derivative.
    np.testing.assert_array_equal(amortized(0 * v), z)
    assert jnp.isfinite(jax.jit(jax.jacobian(amortized))(0 * v)).all()


def test_derivatives_of_planar_flows_are_finite_however_small_w():
    u, w, z = (draw(i, N).astype(jnp.float32) for i in range(3))
    w = -jnp.sign(w @ u) * w

    def total(w):
        y, log_det = flows.planar(z, u, w, jnp.float32(0.3))
        return y.sum() + log_det

    gradient = jax.jit(jax.grad(total))
    for scale in (0, 1e-30, 1e-10, 1e-6, 1):
        assert jnp.abs(gradient(jnp.float32(scale) * w)).max() < 100


def test_sylvester_is_its_formula_and_holds_planar_and_householder_flows():
    z, (q, *rest) = draw(0, N), parameters("sylvester")
    v, *square = parameters("householder_sylvester")
    # u tanh(w'z + b) as hidden unit 2 of Q = [e, w / |w|], span(e, w) = span(u, w).
    u, w = np.asarray(draw(6, N)), np.asarray(draw(7, N))
    u = u + 2 * w  # w'u > 0: nothing is changed by the constraint.
    unit = w / np.linalg.norm(w)
    e = u - unit * (unit @ u)
    plane = np.stack([e / np.linalg.norm(e), unit], axis=1)
    column = np.stack([np.zeros(2), plane.T @ u], axis=1)
    diagonal = np.diag([0, w @ unit])

    @jax.jit
    def all_of():
        return (
            flows.sylvester(z, q, *rest)[0],
            CASES["householder_sylvester"][0](z, v, *square),
            CASES["sylvester"][0](z, reflect(v, jnp.eye(N)), *square),
            flows.sylvester(z, plane, column, diagonal, jnp.array([0, 0.3])),
            flows.planar(z, u, w, jnp.array(0.3)),
        )

    y, householder, formed, second_unit, planar = all_of()
    r, r_tilde, bias = map(np.asarray, rest)
    hidden = np.tanh(np.triu(r_tilde) @ np.asarray(q).T @ z + bias)
    np.testing.assert_allclose(y, z + np.asarray(q) @ np.triu(r) @ hidden, atol=1e-12)
    for one, other in ((householder, formed), (second_unit, planar)):
        np.testing.assert_allclose(one[0], other[0], atol=1e-12)
        np.testing.assert_allclose(one[1], other[1], atol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_layers_stay_invertible_for_any_parameters(dtype):
    a = jnp.asarray([-1e30, -3e4, -1, -1e-3, -1e-30, 0, 1e-30, 3, 1e30], dtype)
    product = lambda a: flows.invertible(a[:, None, None], jnp.ones((1, 1), dtype))[:, 0, 0]
    allowed, slopes = jax.jit(lambda a: jax.jvp(product, (a,), (jnp.ones_like(a),)))(a)
    assert allowed.dtype == dtype
    assert (allowed > -1 + flows.MARGIN / 2).all()
    np.testing.assert_array_equal(allowed[5:], a[5:])
    limit = 1 - flows.MARGIN
    np.testing.assert_allclose(allowed[1:4], limit * np.expm1(a[1:4] / limit), rtol=1e-6)
    np.testing.assert_allclose(slopes[2:], jnp.exp(jnp.minimum(a[2:] / limit, 0)), rtol=1e-5)
    # The scalar equation t + a tanh t = s, where it is steep, flat, large and 0.
    a = jnp.asarray([-0.999, -0.999, -0.5, 0, 40, 40, 1e4, 3], dtype)
    s = jnp.asarray([1e-4, -3, 50, -2, 0, 39, -2e4, -1e4], dtype)
    t = jax.jit(flows._solve)(a, s)
    eps = jnp.finfo(dtype).eps
    np.testing.assert_allclose(t + a * jnp.tanh(t), s, rtol=8 * eps, atol=eps)


def test_the_inverse_is_differentiable():
    forward, inverse, _ = CASES["sylvester"]
    z, dz, own = draw(0, N), draw(1, N), parameters("sylvester")

    @jax.jit
    def all_of():
        y, dy = jax.jvp(lambda z: forward(z, *own)[0], (z,), (dz,))
        back = lambda y: inverse(y, *own)[0]
        return dy, jax.jvp(back, (y,), (dy,))[1], jax.vjp(back, y)[1](dz)[0]

    dy, tangent, cotangent = all_of()
    np.testing.assert_allclose(tangent, dz, atol=1e-8)
    np.testing.assert_allclose(cotangent @ dy, dz @ dz, rtol=1e-8)


@pytest.mark.slow
def test_a_flow_is_a_density_and_its_kernels_are_kept_orthogonal_by_default():
    normal = nnx.initializers.normal(1.0)

    def make(rngs):
        return Flow(
            [
                InvertibleLinear(2, sign=1, rngs=rngs),
                Sylvester(2, r_init=normal, rngs=rngs),
                HouseholderFlow(2, 3, rngs=rngs),
                Sylvester(2, 1, reflections=2, r_init=normal, rngs=rngs),
                Planar(2, u_init=normal, rngs=rngs),
            ]
        )

    axis = np.linspace(-12, 12, 241, dtype=np.float32)
    x = np.stack(np.meshgrid(axis, axis), axis=-1)

    @jax.jit
    def all_of():
        flow = make(nnx.Rngs(0))
        z, log_det = flow(x)
        return flows.standard_normal(z) + log_det, flow.log_density(x), log_det, flow.inverse(z)

    log_density, again, log_det, (back, inverse_log_det) = all_of()
    np.testing.assert_array_equal(log_density, again)
    np.testing.assert_allclose(jnp.exp(log_density).sum() * 0.1**2, 1, atol=1e-3)
    np.testing.assert_allclose(back, x, atol=1e-3)
    np.testing.assert_allclose(inverse_log_det, -log_det, atol=1e-3)
    labels = orthojax.label_by_path(orthojax.transforms.orthogonal.KERNELS)(
        nnx.state(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
    )
    assert sorted(jax.tree.leaves(labels)).count("orthogonal") == 2


def test_an_invertible_linear_layer_is_a_1x1_convolution():
    image = draw(2, 2, 2, 3)

    @jax.jit
    def all_of():
        layer = InvertibleLinear(3, rngs=nnx.Rngs(0), param_dtype=jnp.float64)
        layer.log_diagonal[...], layer.upper[...] = draw(0, 3), draw(1, 3, 3)
        y, log_det = layer(image)
        jacobian = jax.jacobian(lambda x: layer(x)[0])(image)
        options = {1: {"reflections": 2}, -1: {"reflections": 3}}
        signed = {
            sign: [
                InvertibleLinear(3, sign=sign, rngs=nnx.Rngs(1), **chosen)(jnp.eye(3))[0]
                for chosen in ({}, options[sign])
            ]
            for sign in options
        }
        return log_det, jacobian, layer.inverse(y)[0], signed

    log_det, jacobian, back, signed = all_of()
    expected = np.linalg.slogdet(jacobian.reshape(12, 12))[1]
    np.testing.assert_allclose(log_det.sum(), expected, rtol=1e-10)
    np.testing.assert_allclose(back, image, atol=1e-12)
    for sign, matrices in signed.items():
        np.testing.assert_allclose(np.linalg.det(matrices), [sign, sign], rtol=1e-5)


def test_base_density_and_bfloat16():
    z = draw(0, 4, 3)
    expected = scipy.stats.multivariate_normal(np.zeros(3)).logpdf(z)
    np.testing.assert_allclose(flows.standard_normal(z), expected, rtol=1e-12)
    for name, (forward, inverse, _) in CASES.items():
        arrays = (draw(0, 4, N), *parameters(name, 4))
        narrow = [jnp.asarray(x).astype(jnp.bfloat16) for x in arrays]
        y, log_det = jax.eval_shape(forward, *narrow)
        assert y.dtype == log_det.dtype == jnp.float32
        assert jax.eval_shape(inverse, *narrow)[0].dtype == jnp.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: flows.householder_flow(jnp.ones((2, 3)), jnp.ones((4, 1))), r"space of `z`.*4, 1"),
        (lambda: flows.sylvester(*map(jnp.ones, [3, (3, 4), (4, 4), (4, 4), 4])), "p <= n ortho"),
        (lambda: flows.sylvester(*map(jnp.ones, [3, (3, 2), (2, 2), (3, 3), 2])), "are 2 x 2 and"),
        (lambda: flows.qr_linear(*map(jnp.ones, [3, (3, 2), (2, 2)])), "square, 3 x 3"),
        (lambda: flows.sylvester(jnp.ones(3, int), *map(jnp.ones, [1] * 4)), "floating-point"),
        (lambda: Sylvester(3, 4, rngs=nnx.Rngs(0)), "between 1 and width=3, got 4"),
        (lambda: Sylvester(3, reflections=0, rngs=nnx.Rngs(0)), "at least 1, got 0"),
        (lambda: InvertibleLinear(3, sign=2, rngs=nnx.Rngs(0)), "1, -1 or None, got 2"),
        (
            lambda: InvertibleLinear(3, reflections=2, sign=-1, rngs=nnx.Rngs(0)),
            "`sign=-1` needs an odd number of `reflections`",
        ),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


@pytest.mark.parametrize("posterior", POSTERIORS)
def test_a_vae_bounds_the_likelihood_of_its_decoder(posterior):
    """E_q exp(-loss) is p(x), here by the trapezoidal rule over both latents."""
    options = {"width": 8, "latents": 2, "activation": "tanh", "layers": 2, "reflections": 2}
    image = np.array([1.0, 0, 0, 1])  # Binarized as it is.
    axis = np.linspace(-6, 6, 61)
    z = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)

    @jax.jit
    def all_of():
        model = VAE((2, 2, 1), **options, posterior=posterior, rngs=nnx.Rngs(0))
        images = jnp.broadcast_to(image.reshape(2, 2, 1), (20000, 2, 2, 1))
        return model(images), jax.nn.sigmoid(model.decode(z))

    values, p = map(np.asarray, all_of())
    given_z = np.prod(np.where(image > 0, p, 1 - p), axis=-1)
    likelihood = (scipy.stats.multivariate_normal(np.zeros(2)).pdf(z) * given_z).sum() * 0.2**2
    np.testing.assert_allclose(np.exp(-values).mean(), likelihood, rtol=0.03)
    assert values.mean() > -np.log(likelihood)
    assert values.std() > 0.01


def test_densities_of_toys_integrate_to_one_and_fit_their_points():
    axis = np.arange(-5, 5, 0.1)
    points = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    for name in toys.NAMES:
        values = np.exp(toys.log_density(name, points + 0.05, nodes=400))
        np.testing.assert_allclose(values.sum() * 0.1**2, 1, rtol=1e-3)
        x = toys.batch(name, 2000, seed=1, step=2)
        np.testing.assert_array_equal(x, toys.batch(name, 2000, seed=1, step=2))
        assert not np.array_equal(x, toys.batch(name, 2000, seed=1, step=2, held_out=True))
        entropy = -(values * np.log(np.where(values > 0, values, 1))).sum() * 0.1**2
        np.testing.assert_allclose(-toys.log_density(name, x, nodes=400).mean(), entropy, atol=0.08)


@pytest.mark.slow
def test_the_study_of_toys_measures_and_draws(tmp_path):
    config = flows_toys.get_config()
    config.update_from_flattened_dict(
        {"seeds": (0,), "study.toys": ("moons",), "study.layers": 2, "study.steps": 60}
    )
    config.study.update({"batch_size": 64, "held_out": 500})
    config.arms = {}
    with jax.enable_x64(False):
        studies.run(config, tmp_path)
    _, cell = map(json.loads, (tmp_path / "rows.jsonl").read_text().splitlines())
    assert (tmp_path / "density.png").exists()
    (row,) = cell["rows"]
    assert 0 < row["excess"] < 1
    assert row["orthogonality_error"] < 1e-5
    step = density.GRID[1] - density.GRID[0]
    np.testing.assert_allclose(sum(row["density"]) * step**2, 1, atol=0.05)
