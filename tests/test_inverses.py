import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matrices_of import gaussian

from orthojax.inverses import (
    cholesky_inverse,
    inverse,
    right_divide,
    solve_upper,
    triangular_inverse,
)


def positive(shape, skew_part=1.0):
    """A with A + A' = 2 I."""
    x = gaussian(0, shape)
    return np.eye(shape[-1]) + skew_part * (x - np.swapaxes(x, -1, -2))


@pytest.mark.parametrize("shape", [(3, 3), (2, 37, 37), (130, 130)])
def test_inverses_by_blocks_are_those_of_numpy(x64, shape):
    a = positive(shape)
    np.testing.assert_allclose(jax.jit(inverse)(a), np.linalg.inv(a), atol=1e-13)
    r = np.triu(gaussian(1, shape) / shape[-1], 1) + 2 * np.eye(shape[-1])
    np.testing.assert_allclose(jax.jit(triangular_inverse)(r), np.linalg.inv(r), atol=1e-13)
    low = np.linalg.cholesky(r @ np.swapaxes(r, -1, -2))
    actual = jax.jit(cholesky_inverse)(r @ np.swapaxes(r, -1, -2))
    np.testing.assert_allclose(actual, np.linalg.inv(low), atol=1e-12)
    x = gaussian(2, (*shape[:-1], 3))
    np.testing.assert_allclose(solve_upper(r, x), np.linalg.solve(r, x), atol=1e-13)


def test_derivatives_of_the_inverse_are_those_of_lapack(x64):
    a, da = positive((20, 20)), gaussian(3, (20, 20))
    expected = jax.jvp(jnp.linalg.inv, (a,), (da,))[1]
    np.testing.assert_allclose(jax.jvp(inverse, (a,), (da,))[1], expected, atol=1e-12)
    expected = jax.vjp(jnp.linalg.inv, a)[1](da)[0]
    np.testing.assert_allclose(jax.vjp(inverse, a)[1](da)[0], expected, atol=1e-12)


@pytest.mark.parametrize("triangular", [False, True])
def test_derivatives_of_division_are_those_of_a_product_with_the_inverse(x64, triangular):
    x, a, g = gaussian(0, (5, 18)), positive((18, 18)), gaussian(1, (5, 18))
    invert = triangular_inverse if triangular else inverse
    upper = jnp.triu if triangular else lambda a: a
    ours = lambda x, a: jnp.sum(g * right_divide(x, upper(a), invert))
    oracle = lambda x, a: jnp.sum(g * (x @ jnp.linalg.inv(upper(a))))
    for actual, expected in zip(
        jax.grad(ours, (0, 1))(x, a), jax.grad(oracle, (0, 1))(x, a), strict=True
    ):
        np.testing.assert_allclose(actual, expected, atol=1e-12)


@pytest.mark.parametrize("skew_part", [1.0, 1e3, 1e5])
def test_where_blocks_lose_accuracy_lapack_inverts(skew_part):
    a = positive((64, 64), skew_part).astype(np.float32)
    actual = np.asarray(jax.jit(inverse)(a), np.float64)
    cayley = 2 * actual - np.eye(64)  # Orthogonal for A = I - K.
    lapack = 2 * np.asarray(jnp.linalg.inv(a), np.float64) - np.eye(64)
    defect = lambda q: np.abs(q.T @ q - np.eye(64)).max()
    assert defect(cayley) <= max(2e-6, 3 * defect(lapack))


def test_the_inverse_under_vmap_branches_once():
    a = jnp.asarray(positive((3, 20, 20)), jnp.float32)
    assert "select_n" not in str(jax.make_jaxpr(jax.vmap(inverse))(a)).split("cond[")[0]
    assert str(jax.make_jaxpr(jax.vmap(inverse))(a)).count("cond[") == 1
    np.testing.assert_allclose(jax.vmap(inverse)(a), inverse(a), atol=1e-6)
