"""Subspaces that the initial weights keep: Jacobians by JAX's derivative, the claims by NumPy."""

import functools

import jax
import numpy as np
import pytest
from matrices_of import defect

from orthojax import persistent

DEPTH, WIDTH = 200, 32

# Name: (function of key and dtype, residual, dimension of the subspace, a contraction, and the
# limit of float32: errors of one shared Q add up, those of others in part).
KEEPING = {
    "shared": (functools.partial(persistent.shared, k=12, radius=50.0), False, 20, True, 1e-4),
    "projection": (functools.partial(persistent.projection, k=12), True, 20, True, 1e-5),
    "block": (functools.partial(persistent.block, k=20), False, 12, False, 1e-5),
    "looks_linear": (persistent.looks_linear, False, 16, True, 1e-5),
    "shared, B": (
        functools.partial(persistent.shared, k=12, radius=50.0, residual=True),
        True,
        20,
        True,
        1e-5,
    ),
    "projection, A": (
        functools.partial(persistent.projection, k=12, residual=False),
        False,
        20,
        True,
        2e-4,
    ),
    "block, B": (functools.partial(persistent.block, k=12, residual=True), True, 20, False, 1e-5),
}
# Of the other type than the usual one.
OTHERS = ("shared, B", "projection, A", "block, B")


@functools.partial(jax.jit, static_argnames=("make", "residual", "dtype", "depth"))
def made(make, residual, dtype, depth=DEPTH, seed=0):
    """The blocks, an input, the output and the Jacobian [out, in] there."""
    blocks = make(jax.random.key(seed), depth, WIDTH, dtype=dtype)
    x = jax.random.normal(jax.random.key(seed + 1), (WIDTH,), dtype)
    f = functools.partial(persistent.propagate, blocks, residual=residual)
    return blocks, x, f(x), jax.jacfwd(f)(x)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("shared", np.float32),
        ("projection", np.float32),
        ("block", np.float32),
        *((name, np.float32) for name in OTHERS),
        *((name, np.float64) for name in KEEPING),
    ],
)
def test_the_jacobian_carries_the_subspace_to_itself_isometrically(name, dtype):
    make, residual, dimension, contraction, limit = KEEPING[name]
    limit = 1e-12 if dtype == np.float64 else limit
    with jax.enable_x64(dtype == np.float64):
        blocks, _, _, j = map(jax.device_get, made(make, residual, dtype))
    assert all(x.dtype == dtype for x in (*blocks, j))
    v = blocks.subspace.astype(np.float64)
    assert v.shape == (WIDTH, dimension)
    assert defect(v) < limit
    within = v.T @ j @ v
    assert defect(within) < limit
    # Forward J V = V R, and backward J'V = V R'.
    np.testing.assert_allclose(j @ v, v @ within, atol=limit)
    np.testing.assert_allclose(j.T @ v, v @ within.T, atol=limit)
    if contraction:
        assert np.linalg.norm(j, 2) < 1 + limit


@pytest.mark.parametrize(
    ("residual", "dtype", "limit"),
    [
        (False, np.float32, 1e-4),
        (True, np.float32, 1e-5),
        (False, np.float64, 1e-12),
        (True, np.float64, 1e-12),
    ],
)
def test_shared_weights_have_singular_values_zero_and_one(residual, dtype, limit):
    make = functools.partial(persistent.shared, residual=residual)
    with jax.enable_x64(dtype == np.float64):
        blocks, x, y, j = jax.device_get(made(make, residual, dtype))
    q = blocks.inner[0].astype(np.float64)
    kept = (x @ q > 0) != residual
    np.testing.assert_allclose(y, (x @ q * kept) @ q.T, atol=10 * limit)
    np.testing.assert_allclose(j, q * kept @ q.T, atol=limit)
    expected = np.sort(kept)[::-1]
    np.testing.assert_allclose(np.linalg.svd(j, compute_uv=False), expected, atol=limit)
    assert blocks.subspace is None


@pytest.mark.parametrize("residual", [False, True])
def test_the_bias_of_shared_weights_makes_columns_linear_within_its_radius(x64, residual):
    make = functools.partial(persistent.shared, k=12, radius=3.0, residual=residual)
    blocks, *_ = made(make, residual, np.float64, depth=5)
    q = np.asarray(blocks.inner[0])
    z = np.random.default_rng(0).uniform(-3, 3, (7, WIDTH))
    sign = -1 if residual else 1  # The side that type A cuts off below, type B does above.
    expected = np.concatenate([z[:, :20], sign * np.maximum(sign * z[:, 20:], 0)], axis=1)
    with jax.numpy_rank_promotion("allow"):
        y = persistent.propagate(blocks, z @ q.T, residual=residual)
        np.testing.assert_allclose(y @ q, expected, atol=1e-13)
        beyond = persistent.propagate(blocks, -10 * sign * q[:, 0], residual=residual)
    np.testing.assert_allclose(beyond @ q, -3 * sign * np.eye(WIDTH)[0], atol=1e-13)


@pytest.mark.parametrize("residual", [False, True])
def test_projection_leaves_the_complement_and_wears_down_the_rest(x64, residual):
    make = functools.partial(persistent.projection, k=12, residual=residual)
    blocks, x, y, j = jax.device_get(made(make, residual, np.float64))
    v = blocks.subspace
    np.testing.assert_allclose(y @ v, x @ v, atol=1e-12)
    np.testing.assert_allclose(j @ v, v, atol=1e-12)
    rest = x - x @ v @ v.T
    for turned in blocks.inner[..., -12:]:  # W R_l
        z = rest @ turned
        rest = np.minimum(z, 0) @ turned.T if residual else np.maximum(z, 0) @ turned.T
    np.testing.assert_allclose(y - y @ v @ v.T, rest, atol=1e-12)
    assert np.linalg.norm(j - v @ v.T, 2) < 1e-3
    assert blocks.inner.shape == (DEPTH, WIDTH, 12 if residual else 2 * WIDTH - 12)
    nothing_kept = functools.partial(persistent.projection, k=WIDTH, residual=residual)
    blocks, _, _, j = made(nothing_kept, residual, np.float64)
    assert blocks.subspace.shape == (WIDTH, 0)
    assert np.linalg.norm(j, 2) < 1e-6


def test_block_is_linear_on_the_subspace_and_gaussian_on_the_rest(x64):
    blocks, x, y, _ = jax.device_get(made(KEEPING["block"][0], False, np.float64))
    v, m, k = blocks.subspace, 12, 20
    expected = x @ v
    for inner in blocks.inner:
        expected = expected @ (v.T @ inner[:, :m])
    np.testing.assert_allclose(y @ v, expected, atol=1e-12)
    into, out = blocks.inner[..., 2 * m :], blocks.outer[:, 2 * m :]
    np.testing.assert_allclose(v.T @ into, 0, atol=1e-14)
    np.testing.assert_allclose(out @ v, 0, atol=1e-14)
    # Variances 2/k and 1/r of the k coordinates that are not 0.
    assert np.mean(into**2) * WIDTH / k == pytest.approx(2 / k, rel=0.05)
    assert np.mean(out**2) * WIDTH / k == pytest.approx(1 / (WIDTH - 2 * m), rel=0.05)


def test_residual_blocks_leave_the_subspace_and_keep_the_mean_square_of_the_rest(x64):
    make, residual, *_ = KEEPING["block, B"]
    blocks, x, y, j = jax.device_get(made(make, residual, np.float64))
    v, k = blocks.subspace, 12
    np.testing.assert_allclose(y @ v, x @ v, atol=1e-12)
    np.testing.assert_allclose(j @ v, v, atol=1e-12)
    assert blocks.inner.shape == (DEPTH, WIDTH, k)
    assert np.mean(blocks.inner**2) * WIDTH / k == pytest.approx(2 / k, rel=0.05)
    assert np.mean(blocks.outer**2) * WIDTH / k == pytest.approx(1 / (k * DEPTH), rel=0.05)

    @jax.jit
    @jax.vmap
    def growth(key):  # Of both the input and the Jacobian, |R|_F^2 / n for k = n.
        blocks = persistent.block(key, 50, WIDTH, WIDTH, residual=True, dtype=np.float64)
        f = functools.partial(persistent.propagate, blocks, residual=True)
        x = jax.random.normal(jax.random.fold_in(key, 1), (WIDTH,), np.float64)
        return np.sum(f(x) ** 2) / np.sum(x**2), np.sum(jax.jacfwd(f)(x) ** 2) / WIDTH

    keys = jax.random.split(jax.random.key(0), 60)
    with jax.numpy_rank_promotion("allow"):
        for values in growth(keys):
            assert np.mean(values) == pytest.approx((1 + 1 / 50) ** 50, rel=0.15)


def test_the_baselines_are_their_formulas_and_lose_the_rank():
    kaiming, _, _, of_kaiming = jax.device_get(made(persistent.kaiming, False, np.float32))
    assert np.var(kaiming.inner) == pytest.approx(2 / WIDTH, rel=0.02)
    assert np.var(kaiming.outer) == pytest.approx(1 / WIDTH, rel=0.02)
    scaled = functools.partial(persistent.independent, scale=2**0.5)
    independent, _, _, of_independent = jax.device_get(made(scaled, False, np.float32))
    assert defect(independent.inner / 2**0.5) < 1e-6
    np.testing.assert_allclose(independent.inner.mT, 2**0.5 * independent.outer, rtol=1e-6)
    assert np.abs(independent.inner[0] - independent.inner[1]).max() > 0.1
    for blocks, j in ((kaiming, of_kaiming), (independent, of_independent)):
        s = np.linalg.svd(j, compute_uv=False)
        assert s[1] < 0.1 * s[0]
        assert blocks.subspace.shape == (WIDTH, 0)
    shapes = jax.eval_shape(lambda key: persistent.kaiming(key, 3, 4, hidden=5), jax.random.key(0))
    assert [x.shape for x in shapes] == [(3, 4, 5), (3, 5), (3, 5, 4), (3, 4), (4, 0)]


@pytest.mark.parametrize(
    "name", ["shared", pytest.param("projection", marks=pytest.mark.slow), "block"]
)
def test_weights_can_be_mapped_over_the_key(name):
    make = KEEPING[name][0]
    keys = jax.random.split(jax.random.key(0), 3)
    mapped = jax.jit(jax.vmap(lambda key: make(key, 2, WIDTH)))(keys)
    last = jax.jit(lambda key: make(key, 2, WIDTH))(keys[2])
    jax.tree.map(lambda m, x: np.testing.assert_allclose(m[2], x, 1e-5, 1e-5), mapped, last)
    assert np.abs(mapped.inner[0] - mapped.inner[1]).max() > 0.1


def test_impossible_arguments_are_errors_that_name_them():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"`k` is between width / 2 and width.*got k=3"):
        persistent.block(key, 2, 8, 3)
    with pytest.raises(ValueError, match=r"`k` is between 1 and width=8, got 0"):
        persistent.projection(key, 2, 8, 0)
    with pytest.raises(ValueError, match=r"`k` is between 1 and width=8, got 9"):
        persistent.block(key, 2, 8, 9, residual=True)
    with pytest.raises(ValueError, match=r"`k` is between 0 and width=8, got 9"):
        persistent.shared(key, 2, 8, 9)
    with pytest.raises(ValueError, match=r"`width` must be even.*got 7"):
        persistent.looks_linear(key, 2, 7)
    with pytest.raises(ValueError, match=r"`depth`.*got 0"):
        persistent.kaiming(key, 0, 8)
