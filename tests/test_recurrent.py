"""Recurrences with orthogonal and unitary kernels against NumPy in float64 and complex128."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.linalg
from flax import nnx
from jax.extend.core import jaxprs_in_params
from matrices_of import defect, gaussian, orthonormal

import orthojax
from orthojax import recurrent
from orthojax.maps.unitary import real_form
from orthojax.matrices import named
from orthojax.nn.recurrent import OrthogonalCell, Recurrent, UnitaryCell

RULES = [("cell/kernel", "orthogonal"), (".*", "free")]
CELLS = {"orthogonal": OrthogonalCell, "unitary": UnitaryCell}


@pytest.fixture
def x64():
    """float64; a bias may be added to a batch."""
    with jax.enable_x64(True):
        yield


def unitary_matrix(seed, n):
    q, _ = np.linalg.qr(gaussian(seed, (n, n)) + 1j * gaussian(seed + 100, (n, n)))
    return q


def pair(u):
    """X beside Y of X + iY."""
    return np.concatenate([u.real, u.imag], axis=-1)


def complex_of(kernel):
    x, y = np.split(np.asarray(kernel), 2, axis=-1)
    return x + 1j * y


def oracle(w, b, drive, h):
    """The states of a loop over time, real or complex."""
    states = []
    for z in np.moveaxis(drive, -2, 0):
        z = z + h @ w
        modulus = np.abs(z)
        h = np.where(modulus > 0, z / np.where(modulus > 0, modulus, 1), 0)
        h = h * np.maximum(modulus + b, 0)
        states.append(h)
    return np.stack(states, axis=-2)


# Pure functions.


def test_unroll_equals_a_loop(x64):
    w, b, drive = orthonormal(0, (5, 5)), gaussian(1, (5,)) / 5, gaussian(2, (2, 3, 7, 5))
    h = gaussian(3, (2, 3, 5))
    tanh = lambda z, b: jnp.tanh(z + b)
    states, tanh = jax.jit(
        lambda w, b, z, h: (
            recurrent.unroll(w, b, z, h),
            recurrent.unroll(w, b, z[0], activation=tanh),
        )
    )(w, b, drive, h)
    np.testing.assert_allclose(states, oracle(w, b, drive, h), rtol=1e-12, atol=1e-12)
    last = np.zeros((3, 5))
    for t in range(7):
        last = np.tanh(drive[0][:, t] + last @ w + b)
    np.testing.assert_allclose(tanh[:, -1], last, rtol=1e-12)


def test_unroll_in_real_form_equals_complex_arithmetic(x64):
    u, b = unitary_matrix(0, 4), gaussian(1, (4,)) / 5
    drive, h = (gaussian(i, s) for i, s in ((2, (3, 6, 8)), (3, (3, 8))))
    unroll = lambda w, *rest: recurrent.unroll(real_form(w), *rest, recurrent.complex_mod_relu)
    states = jax.jit(unroll)(pair(u), b, drive, h)
    expected = oracle(u, b, complex_of(drive), complex_of(h))
    np.testing.assert_allclose(complex_of(states), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("activation", "width"), [(recurrent.mod_relu, 4), (recurrent.complex_mod_relu, 8)]
)
def test_mod_relu_has_the_derivative_of_differences_and_no_nan_at_zero(x64, activation, width):
    z, b, direction = gaussian(0, (3, width)), gaussian(1, (4,)) / 2, gaussian(2, (3, width))
    f = jax.jit(lambda z: jnp.sum(activation(z, b) ** 3))
    h = 1e-6
    by_difference = (f(z + h * direction) - f(z - h * direction)) / (2 * h)
    np.testing.assert_allclose(np.sum(jax.grad(f)(z) * direction), by_difference, rtol=1e-7)
    at_zero = jax.jit(jax.grad(lambda z, b: jnp.sum(activation(z, b)), argnums=(0, 1)))
    for bias in (-1.0, 0.0, 1.0):
        for g in at_zero(jnp.zeros(width), jnp.full(4, bias)):
            assert jnp.isfinite(g).all()


def test_the_jacobian_through_time_is_orthogonal_where_the_bias_is_zero(x64):
    for w, activation, m in (
        (orthonormal(0, (4, 4)), recurrent.mod_relu, 4),
        (real_form(pair(unitary_matrix(1, 3))), recurrent.complex_mod_relu, 6),
    ):
        last = lambda h, w=w, a=activation, m=m: recurrent.unroll(
            w, jnp.zeros(m if a is recurrent.mod_relu else m // 2), gaussian(2, (30, m)), h, a
        )[-1]
        assert defect(jax.jit(jax.jacobian(last))(jnp.asarray(gaussian(3, (m,))))) < 1e-12


# Starts.


@pytest.mark.parametrize("shape", [(6, 6), (2, 5, 5), (1, 1)])
@pytest.mark.parametrize("reflections", [0, 1])
def test_rotations_have_their_angles_and_their_determinant(x64, shape, reflections):
    init = recurrent.rotations(0.3, 2.0, reflections)
    w = np.asarray(jax.jit(lambda key: init(key, shape, jnp.float64))(jax.random.key(0)))
    assert defect(w) < 1e-14
    np.testing.assert_allclose(np.linalg.det(w), (-1) ** reflections, atol=1e-12)
    if not reflections:
        angles = np.abs(np.angle(np.linalg.eigvals(w)))
        rotated = np.sort(angles, axis=-1)[..., shape[-1] % 2 :]
        assert (rotated > 0.3).all()
        assert (rotated < 2.0).all()


def test_the_cayley_start_is_the_cayley_transform_of_its_paper(x64):
    start = lambda key: recurrent.cayley_start()(key, (6, 6), jnp.float64)
    w = np.asarray(jax.jit(start)(jax.random.key(0)))
    a = np.linalg.solve(np.eye(6) + w, np.eye(6) - w)  # W = (I + A)^{-1} (I - A)
    s = np.abs(a[np.arange(0, 6, 2), np.arange(1, 6, 2)])
    u = np.angle(np.linalg.eigvals(w))
    u = np.sort(u[u > 0])
    np.testing.assert_allclose(np.sort(s), np.sqrt((1 - np.cos(u)) / (1 + np.cos(u))), rtol=1e-10)
    assert u.max() < np.pi / 2


def test_henaff_angles_are_uniform():
    w = jax.jit(lambda key: recurrent.henaff()(key, (1000, 1000)))(jax.random.key(0))
    w = np.asarray(w)
    angles = np.arctan2(w[::2, 1::2].diagonal(), w[::2, ::2].diagonal())
    assert scipy.stats.kstest(angles, "uniform", args=(-np.pi, 2 * np.pi)).pvalue > 0.01


@pytest.mark.parametrize("init", [recurrent.phases(), recurrent.haar_unitary])
def test_starts_of_unitary_kernels_are_unitary(x64, init):
    u = complex_of(jax.jit(lambda key: init(key, (5, 10), jnp.float64))(jax.random.key(0)))
    np.testing.assert_allclose(u.conj().T @ u, np.eye(5), atol=1e-14)
    assert np.abs(np.angle(np.linalg.det(u))) > 1e-3  # Not special.


# The unitary map.


@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("cayley", lambda s: np.linalg.solve(np.eye(4) - s / 2, np.eye(4) + s / 2)),
        ("exponential", scipy.linalg.expm),
    ],
)
def test_unitary_maps_are_those_of_skew_hermitian_matrices(x64, name, of):
    p = orthojax.unitary(name)
    u, theta = unitary_matrix(0, 4), gaussian(1, (4, 8))
    base, zero = jax.jit(p.init)(pair(u).T)
    assert not zero.any()
    np.testing.assert_allclose(base, pair(u).T, atol=1e-13)
    # The tall view is that of the transpose.
    b, t = u.T, complex_of(theta).T
    s = b.conj().T @ t
    expected = b @ of((s - s.conj().T) / 2)
    w = jax.jit(p.forward)(base, theta.T)
    np.testing.assert_allclose(w, pair(expected.T).T, atol=1e-12)


@pytest.mark.parametrize("name", ["cayley", "polar"])
def test_unitary_maps_stay_unitary_and_their_pull_back_is_the_vjp(x64, name):
    p = orthojax.unitary(name)
    base, theta, g = pair(unitary_matrix(0, 3)).T, gaussian(1, (6, 3)), gaussian(2, (6, 3))

    @jax.jit
    def both(base, theta, g):
        w, vjp = jax.vjp(lambda t: p.forward(base, t), theta)
        (grad,) = vjp(g)
        closed = grad if p.pull_back is None else p.pull_back(base, theta, w, g)
        return w, p.init(w)[0], grad, closed

    w, again, grad, closed = both(base, theta, g)
    u = complex_of(w.T)
    np.testing.assert_allclose(u.conj().T @ u, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(again, w, atol=1e-12)
    assert jnp.isfinite(grad).all()
    np.testing.assert_allclose(closed, grad, atol=1e-12)


def test_training_stays_unitary_over_changes_of_base():
    tx = orthojax.orthogonal(optax.adam(1e-2), map=orthojax.unitary(), rebase_every=3)
    target = gaussian(0, (4, 8), np.float32)
    params = {"kernel": pair(unitary_matrix(1, 4)).astype(np.float32)}

    def step(carry, _):
        params, state = carry
        loss, grads = jax.value_and_grad(lambda p: jnp.sum((p["kernel"] - target) ** 2))(params)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), loss

    run = jax.jit(lambda params: jax.lax.scan(step, (params, tx.init(params)), length=50))
    (params, _), losses = run(params)
    assert losses[-1] < losses[0] - 1
    u = complex_of(params["kernel"])
    np.testing.assert_allclose(u.conj().T @ u, np.eye(4), atol=1e-5)


# Layers.


@pytest.mark.parametrize("name", CELLS)
def test_the_layer_and_the_cell_in_flax_rnn_are_the_same_recurrence(x64, name):
    make = lambda: CELLS[name](3, 4, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    cell = nnx.jit(make)()
    x = gaussian(0, (2, 6, 3))
    states = nnx.jit(lambda cell, x: Recurrent(cell)(x))(cell, x)
    turned = real_form if name == "unitary" else lambda w: w
    assert defect(turned(cell.kernel[...])) < 1e-13
    w, v, b = (np.asarray(p[...]) for p in (cell.kernel, cell.input_kernel, cell.bias))
    if name == "unitary":
        w, v = complex_of(w), complex_of(v)
    expected = oracle(w, b, x @ v, np.zeros((2, 4), w.dtype))
    got = complex_of(states) if name == "unitary" else states
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)
    by_flax = nnx.jit(lambda cell, x: nnx.RNN(cell)(x))(cell, x)
    np.testing.assert_allclose(by_flax, states, rtol=1e-10, atol=1e-12)


def scans(jaxpr, length):
    """The bodies of all scans of this length."""
    for eqn in jaxpr.eqns:
        for inner in jaxprs_in_params(eqn.params):
            inner = getattr(inner, "jaxpr", inner)
            if eqn.primitive.name == "scan" and eqn.params["length"] == length:
                yield inner
            yield from scans(inner, length)


@pytest.mark.parametrize("name", CELLS)
def test_the_kernel_is_computed_once_a_step_of_training_and_never_once_a_time_step(name):
    steps, n = 23, 4
    make = lambda: Recurrent(CELLS[name](3, n, rngs=nnx.Rngs(0)))
    graph, params = nnx.split(nnx.eval_shape(make), nnx.Param)
    map = orthojax.unitary("exponential") if name == "unitary" else "exponential"
    tx = orthojax.orthogonal(optax.adam(1e-3), map=map, rules=RULES, rebase_every=5)

    def step(params, state, x):
        grads = jax.grad(lambda p: jnp.sum(nnx.merge(graph, p)(x) ** 2))(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    x = jax.ShapeDtypeStruct((2, steps, 3), jnp.float32)
    jaxpr = jax.make_jaxpr(step)(params, jax.eval_shape(tx.init, params), x).jaxpr
    bodies = list(scans(jaxpr, steps))
    assert len(bodies) == 2  # forward and back
    primitives = [[eqn.primitive.name for eqn in body.eqns] for body in bodies]
    # The state times W; back, the two products that follow from it.
    assert [p.count("dot_general") for p in primitives] == [1, 2]
    m = 2 * n if name == "unitary" else n
    (product,) = (e for e in bodies[0].eqns if e.primitive.name == "dot_general")
    assert [v.aval.shape for v in product.invars] == [(2, m), (m, m)]
    assert product.invars[1] in bodies[0].invars  # a constant of the scan
    assert not {"while", "cond", "custom_linear_solve", "lu"} & {p for ps in primitives for p in ps}


def test_layers_in_bfloat16_and_their_names():
    make = lambda: Recurrent(OrthogonalCell(3, 4, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    layer = nnx.eval_shape(make)
    x = jax.ShapeDtypeStruct((2, 5, 3), jnp.bfloat16)
    assert nnx.eval_shape(lambda layer, x: layer(x), layer, x).dtype == jnp.bfloat16
    shapes = {k: v.shape for k, v in named(nnx.state(layer, nnx.Param)).items()}
    assert shapes == {"cell/kernel": (4, 4), "cell/input_kernel": (3, 4), "cell/bias": (4,)}


def test_impossible_arguments_are_errors_that_name_them():
    key = jax.random.key(0)
    for call, message in (
        (lambda: recurrent.henaff()(key, (3, 4)), r"square.*\(3, 4\)"),
        (lambda: recurrent.rotations(0.0, 1.0, 5)(key, (4, 4)), "reflections=5"),
        (lambda: recurrent.haar_unitary(key, (4, 4)), r"\[n, 2n\].*\(4, 4\)"),
        (lambda: recurrent.unroll(jnp.eye(3), 0.0, jnp.ones((2, 4))), r"`kernel`.*\(2, 4\)"),
        (lambda: real_form(jnp.eye(3)), r"\[n, 2n\].*\(3, 3\)"),
        (lambda: orthojax.unitary("qr"), r"`map` is one of cayley.*'qr'"),
        (lambda: orthojax.unitary().init(jnp.eye(4)), r"\[n, 2n\].*\(4, 4\)"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
