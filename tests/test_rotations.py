"""Rotation heads against SciPy's Rotation, Procrustes by NumPy's SVD, and finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from experiments import configuration, studies
from experiments.configs import rotations as preset
from experiments.data import sources
from experiments.studies import rotations as study
from orthojax import rotations
from orthojax.nearest_rotation import nearest_rotation

HEADS = {
    "6d": (rotations.rotation_from_6d, 6),
    "9d": (rotations.rotation_from_9d, 9),
    "quaternion": (rotations.rotation_from_quaternion, 4),
    "vector": (rotations.rotation_from_vector, 3),
}
ROWS = 128


@functools.cache
def program(function, orders):
    """The values of a function, its Jacobians in reverse and forward mode, second derivatives."""
    reverse = jax.jacrev(function)
    own = (function, reverse, jax.jacfwd(function), jax.jacfwd(reverse))[: orders + 1]
    return jax.jit(jax.vmap(lambda x: [f(x) for f in own]))


def measured(function, x):
    """`program` of rows `x` [B, k], filled up to `ROWS`: one shape, one compilation."""
    # The rule of its own for derivatives is asked for all of them, JAX's for one.
    orders = 3 if function is rotations.rotation_from_9d and x.dtype == np.float64 else 1
    size = -(-len(x) // ROWS) * ROWS
    parts = np.split(np.resize(x, (size, *x.shape[1:])), size // ROWS)
    with jax.enable_x64(True):
        found = [jax.device_get(program(function, orders)(part)) for part in parts]
    return [np.concatenate(own)[: len(x)] for own in zip(*found, strict=True)]


def nearest(x):
    """`nearest_rotation` and its Jacobian; of 3 x 3 matrices by the program of the 9D head."""
    if x.shape[-1] != 3:
        return measured(nearest_rotation, x)[:2]
    r, jacobian = measured(rotations.rotation_from_9d, x.reshape(-1, 9))[:2]
    return r, jacobian.reshape(-1, 3, 3, 3, 3)


def logarithm(r):
    return jnp.append(rotations.vector_from_rotation(r), rotations.quaternion_from_rotation(r))


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def axes(n):
    x = normal(n, 3)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def procrustes(x):
    """argmax tr(R'X) over rotations."""
    u, _, vt = np.linalg.svd(x)
    u[..., -1] *= np.linalg.det(u @ vt)[..., None]
    return u @ vt


def with_singular_values(*s, n=1, seed=1):
    """`n` matrices U diag(s) V' of rotations U and V, for signed s."""
    u, v = (procrustes(normal(n, len(s), len(s), seed=seed + i)) for i in range(2))
    return u * np.array(s, float) @ np.swapaxes(v, -1, -2)


def around(x, step):
    """The points [4 k, k] of central differences of order 4 at x [k]."""
    return (x + step * np.array([1, -1, 2, -2])[:, None, None] * np.eye(len(x))).reshape(-1, len(x))


def differences(values, step):
    """The derivative [..., k] of values at the points of `around`."""
    f1, b1, f2, b2 = values.reshape(4, -1, *values.shape[1:])
    return np.moveaxis((8 * (f1 - b1) - (f2 - b2)) / (12 * step), 0, -1)


def assert_rotations(r, tolerance=20):
    atol = tolerance * np.finfo(r.dtype).eps
    np.testing.assert_allclose(r @ np.swapaxes(r, -1, -2), np.eye(r.shape[-1]) + 0 * r, atol=atol)
    np.testing.assert_allclose(np.linalg.det(r), 1, atol=atol)


# Values.


def test_quaternions_and_vectors_are_scipys():
    q, v = normal(50, 4), 2 * normal(50, 3)
    found = measured(rotations.rotation_from_quaternion, q)[0]
    np.testing.assert_allclose(found, Rotation.from_quat(np.roll(q, -1, 1)).as_matrix(), atol=1e-14)
    found = measured(rotations.rotation_from_vector, v)[0]
    np.testing.assert_allclose(found, Rotation.from_rotvec(v).as_matrix(), atol=1e-14)


def test_6d_is_the_q_of_qr_with_positive_diagonal():
    x = normal(50, 6)
    q, triangle = np.linalg.qr(x.reshape(-1, 2, 3).swapaxes(1, 2))
    q = q * np.sign(np.diagonal(triangle, axis1=1, axis2=2))[:, None]
    r = measured(rotations.rotation_from_6d, x)[0]
    np.testing.assert_allclose(r[..., :2], q, atol=1e-13)
    assert_rotations(r)


@pytest.mark.parametrize("n", [3, 4])
def test_nearest_rotation_is_that_of_an_svd_for_both_signs_of_the_determinant(n):
    x = normal(100, n, n)
    assert 30 < np.sum(np.linalg.det(x) < 0) < 70
    np.testing.assert_allclose(nearest(x)[0], procrustes(x), atol=1e-11)


HARD = {
    "ones": (1, 1, 1),
    "nearly ones": (1 + 1e-9, 1, 1 - 1e-9),
    "two equal, far": (1e6, 1, 1),
    "two equal, near": (1, 1, 1e-6),
    "rank 2": (1, 0.5, 0),
    "spread": (1, 1e-4, 1e-8),
    "reflected": (2, 1, -0.5),
    "nearly a reflection": (1, 1, -0.999),
    "small": (3e-30, 2e-30, -1e-30),
    "large": (3e30, 2e30, 1e30),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nearest_rotation_is_accurate_to_rounding_times_condition(dtype):
    x = np.stack([with_singular_values(*s, n=12) for s in HARD.values()]).astype(dtype)
    r = nearest(x.reshape(-1, 3, 3))[0].reshape(x.shape)
    assert r.dtype == dtype
    assert_rotations(r)
    for s, own, found in zip(HARD.values(), x, r, strict=True):
        bound = 10 * np.finfo(dtype).eps * (s[0] + s[1]) / (s[1] + s[2])
        np.testing.assert_allclose(found, procrustes(own.astype(np.float64)), atol=bound)


def test_where_the_nearest_is_not_unique_one_of_them_comes_out():
    cases = [(1, 1, -1), (1, 0, 0), (0, 0, 0), (-1, -1, -1)]
    x = np.concatenate([with_singular_values(*s, n=5) for s in cases])
    r, jacobian = nearest(x)
    assert_rotations(r)
    np.testing.assert_allclose(np.sum(r * x, axis=(1, 2)), np.repeat([1, 1, 0, 1], 5), atol=1e-14)
    # Undetermined directions have the derivative 0, the others their own: 2 / (1 + 1) and 2 / 1.
    values = np.linalg.svd(jacobian.reshape(-1, 9, 9), compute_uv=False)
    expected = np.zeros_like(values)
    expected[:5, 0], expected[5:10, :2], expected[15:, 0] = 1, 2, 1
    np.testing.assert_allclose(values, expected, atol=1e-9)


def test_parallel_columns_give_rotations_and_finite_derivatives():
    a, b = normal(3), normal(3, seed=1)
    pairs = [(a, 2 * a), (a, 0 * a), (0 * a, a), (0 * a, 0 * a), (a, a + 1e-16), (a, a + 1e-11 * b)]
    r, jacobian = measured(rotations.rotation_from_6d, np.array(pairs).reshape(-1, 6))
    assert_rotations(r)
    np.testing.assert_allclose(r[:2, :, 0], [a / np.linalg.norm(a)] * 2, rtol=1e-14)
    assert np.isfinite(jacobian).all()


@pytest.mark.parametrize("head", HEADS)
def test_scales_zeros_and_nans(head):
    function, k = HEADS[head]
    x = normal(k)
    x = np.stack([x, 1e-200 * x, 0 * x, 1e200 * x, np.where(np.arange(k) == k - 1, np.nan, x)])
    r, jacobian = measured(function, x)[:2]
    good = 3 if head == "vector" else 4
    assert_rotations(r[:good])
    assert np.isfinite(jacobian[:good]).all()
    assert np.isnan(r[4]).any()
    assert np.isnan(jacobian[4]).any()
    if head != "vector":
        np.testing.assert_allclose(r[[1, 3]], r[[0, 0]], atol=1e-14)


ANGLES = np.array([0, 1e-12, 1e-7, 1e-3, 0.3, 0.99, 1.01, 2, 3, np.pi - 1e-3, np.pi - 1e-9])


def test_logarithm_undoes_the_exponential_at_all_angles_below_pi():
    v = (ANGLES[:, None, None] * axes(10)).reshape(-1, 3)
    r, derivative = measured(rotations.rotation_from_vector, v)
    found, jacobian = measured(logarithm, r)
    np.testing.assert_allclose(found[:, :3], v, atol=1e-14, rtol=1e-8)
    both = np.einsum("nkij,nijl->nkl", jacobian[:, :3], derivative)
    far = np.linalg.norm(v, axis=1) > 3.1  # There rounding of R counts.
    np.testing.assert_allclose(both, np.eye(3) + 0 * both, atol=1e-4)
    np.testing.assert_allclose(both[~far], np.eye(3) + 0 * both[~far], atol=1e-11)
    expected = np.roll(Rotation.from_rotvec(v).as_quat(canonical=True), 1, axis=1)
    np.testing.assert_allclose(found[:, 3:], expected, atol=1e-14)


def test_the_logarithm_of_half_a_turn_is_one_of_two():
    half = 2 * axes(10)[:, :, None] * axes(10)[:, None] - np.eye(3)
    found, jacobian = measured(logarithm, half)
    np.testing.assert_allclose(np.abs(found[:, :3]), np.pi * np.abs(axes(10)), atol=1e-14)
    assert np.isfinite(jacobian).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_angles_are_accurate_near_0_and_pi_and_their_derivatives_finite(dtype):
    angles = np.repeat([*ANGLES, np.pi], 10)
    r = procrustes(normal(len(angles), 3, 3))
    turn = Rotation.from_rotvec(angles[:, None] * np.resize(axes(10), (len(angles), 3)))
    pairs = np.stack([r, r @ turn.as_matrix()], axis=1).astype(dtype)
    found, gradient = measured(angle_and_chord, pairs)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(found[:, 0], angles, atol=8 * eps)
    np.testing.assert_allclose(found[:, 1], 8 * np.sin(angles / 2) ** 2, atol=40 * eps)
    assert np.isfinite(gradient).all()
    assert not gradient[:10][np.all(pairs[:10, 0] == pairs[:10, 1], axis=(1, 2)), 1].any()


def angle_and_chord(pair):
    return jnp.stack([rotations.rotation_angle(*pair), rotations.chordal_loss(*pair)])


def test_random_rotations_are_uniform():
    r = np.asarray(
        jax.jit(lambda key: rotations.random_rotation(key, (20_000,)))(jax.random.key(0))
    )
    assert_rotations(r)
    angles = np.arccos(np.clip((np.trace(r, axis1=1, axis2=2) - 1) / 2, -1, 1))
    x = np.linspace(0, np.pi, 20)
    expected = (x - np.sin(x)) / np.pi  # Of Haar's measure.
    np.testing.assert_allclose((angles[:, None] <= x).mean(0), expected, atol=0.01)
    np.testing.assert_allclose(r.mean(0), 0, atol=0.02)


# Derivatives.


@pytest.mark.parametrize("head", HEADS)
def test_derivatives_are_those_of_finite_differences(head):
    function, k = HEADS[head]
    points, step = normal(3, k), 1e-3
    points[0] *= 0.3  # Of a vector: an angle where a series stands.
    x = np.concatenate([points, *(around(own, step) for own in points)])
    values, reverse, *others = measured(function, x)
    for i in range(3):
        of = slice(3 + 4 * k * i, 3 + 4 * k * (i + 1))
        for found, own in zip((reverse, *others), (values, values, reverse), strict=False):
            expected = differences(own[of], step)
            scale = max(1, np.abs(differences(reverse[of], step)).max()) ** 2
            np.testing.assert_allclose(found[i], expected, atol=1e-8 * scale)


@pytest.mark.parametrize("n", [3, 4])
@pytest.mark.parametrize("s", ["ones", "nearly ones", "rank 2", "reflected", "nearly a reflection"])
def test_derivatives_of_the_nearest_rotation_do_not_mind_equal_singular_values(s, n):
    x = with_singular_values(*[2] * (n - 3), *HARD[s])
    step = 1e-5 if s == "nearly a reflection" else 1e-3
    points = around(x.reshape(-1), step).reshape(-1, n, n)
    values, jacobian = nearest(np.concatenate([x, points]))
    expected = differences(values[1:], step).reshape(jacobian[0].shape)
    np.testing.assert_allclose(jacobian[0], expected, atol=1e-8 * np.abs(expected).max())


def test_derivative_has_the_singular_values_2_over_sums_of_signed_ones():
    s = (3.0, 1.5, -0.5)
    jacobian = nearest(with_singular_values(*s))[1]
    found = np.linalg.svd(jacobian.reshape(9, 9), compute_uv=False)
    expected = 2 / np.array([s[1] + s[2], s[0] + s[2], s[0] + s[1]])
    np.testing.assert_allclose(found, [*expected, *[0] * 6], atol=1e-13)


# Dtypes, errors.


@pytest.mark.parametrize("head", HEADS)
def test_bfloat16_comes_out_in_float32_and_batches_may_be_empty(head):
    function, k = HEADS[head]
    shape = lambda *dims: jax.eval_shape(function, jnp.zeros((*dims, k), jnp.bfloat16))
    assert shape(0, 2).shape == (0, 2, 3, 3)
    assert shape().dtype == jnp.float32


def test_wrong_shapes_and_dtypes_are_named():
    for function, k in HEADS.values():
        with pytest.raises(ValueError, match=rf"\[\.\.\., {k}\], got \(2, 5\)"):
            function(jnp.zeros((2, 5)))
        with pytest.raises(TypeError, match="int32"):
            function(jnp.zeros((2, k), jnp.int32))
    matrices = [rotations.quaternion_from_rotation, rotations.vector_from_rotation]
    matrices += [lambda x: rotations.rotation_angle(jnp.eye(3), x)]
    matrices += [lambda x: rotations.chordal_loss(x, jnp.eye(3))]
    for function in matrices:
        with pytest.raises(ValueError, match=r"3 x 3 .* got \(2, 9\)"):
            function(jnp.zeros((2, 9)))
    for shape in (2, 9), (3,), (1, 1):
        with pytest.raises(ValueError, match="rotation_from_9d"):
            nearest_rotation(jnp.zeros(shape))


# The study.


def test_clouds_lie_on_the_digits():
    images = np.zeros((2, 28, 28, 1), np.uint8)
    images[0, 4:24, 10:14], images[1, 8:12, 2:26] = 255, 255  # A bar upright, a bar lying.
    x = study.clouds(images, 200)
    np.testing.assert_allclose(np.linalg.norm(x, axis=-1).max(1), 1, rtol=1e-6)
    np.testing.assert_allclose(x.mean(1), 0, atol=1e-6)
    width, height, relief = x.std(1).T
    assert width[0] < height[0] / 3
    assert height[1] < width[1] / 3
    assert (relief > 0.01).all()


def test_study_learns_rotations(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), np.uint8)
    split = sources.Split(images, np.zeros(64, np.int32))
    dataset = sources.Dataset("noise", "classification", split, None, split, {})
    monkeypatch.setattr(study.common, "load_data", lambda *_: dataset)
    config = preset.get_config()
    config.arms = {"bare": {"study": {"head": "9d_bare"}}}
    small = {"points": 8, "widths": (16, 32), "steps": 200, "evaluations": 2, "tests": 100}
    config.study.update(small | {"batch_size": 16, "hidden": 32, "lr": 5e-3})
    (arm,) = configuration.arms(config, studies.check).values()
    (row,) = study.make_measure(arm)(0)
    assert row["median"] == row["curve"][-1] == pytest.approx(row["percentiles"][49])
    assert row["median"] < 60  # Of random rotations: 130.
    figures, lines = study.report({"bare": arm}, [{"arm": "bare", **row}])
    assert lines[1][:2] == ["bare", f"{row['median']:.3g}"]
    assert [len(axes.lines) for axes in figures["rotations"].axes] == [1, 1]
