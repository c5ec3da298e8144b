import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matrices_of import gaussian, orthonormal

from orthojax.diagnostics import isometry, isometry_gap
from orthojax.normalization import batch_norm

unit = jax.jit(lambda x: batch_norm(x, mean=False, scale="unit"))


def test_both_scales_are_their_formulas(x64):
    x = gaussian(0, (2, 7, 3)) + 2
    centred = x - x.mean(-2, keepdims=True)
    np.testing.assert_allclose(batch_norm(x), centred / x.std(-2, keepdims=True))
    length = np.linalg.norm(x, axis=-2, keepdims=True)
    np.testing.assert_allclose(batch_norm(x, mean=False, scale="unit"), x / length)
    np.testing.assert_allclose(
        batch_norm(x, epsilon=0.1), centred / np.sqrt(x.var(-2, keepdims=True) + 0.1)
    )
    # Eq. 4 has samples as columns.
    m = x[0].T
    expected = np.diag(np.diag(m @ m.T) ** -0.5) @ m
    np.testing.assert_allclose(batch_norm(x[0], mean=False, scale="unit").T, expected)


def test_the_derivative_is_that_of_finite_differences(x64):
    x, dx = gaussian(0, (6, 3)), gaussian(1, (6, 3))
    f = jax.jit(batch_norm)
    _, derivative = jax.jvp(f, (x,), (dx,))
    h = 1e-5
    differences = (f(x + h * dx) - f(x - h * dx)) / (2 * h)
    np.testing.assert_allclose(derivative, differences, atol=1e-8)


@pytest.mark.parametrize("mean", [True, False])
def test_a_column_without_variance_gives_zeros_and_finite_derivatives(mean):
    # 100 times 0.1 does not have the mean 0.1 in float32.
    constant = np.full(100, 0.1 if mean else 0.0)
    x = np.stack([constant, gaussian(0, 100)], axis=1).astype(np.float32)
    loss = lambda x: jnp.sum(batch_norm(x, mean=mean) ** 3)
    (y, gradient) = jax.jit(lambda x: (batch_norm(x, mean=mean), jax.grad(loss)(x)))(x)
    np.testing.assert_array_equal(y[:, 0], 0)
    np.testing.assert_array_equal(gradient[:, 0], 0)
    assert np.isfinite(gradient).all()
    assert np.std(y[:, 1]) == pytest.approx(1, abs=0.2)
    assert np.isnan(batch_norm(x * np.float32(np.nan), mean=mean)).all()


def test_half_precision_is_normalized_in_float32():
    x = (gaussian(0, (1000, 2)) + 3).astype(np.float32)
    half = batch_norm(jnp.asarray(x, jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    exact = batch_norm(jnp.asarray(x, jnp.bfloat16).astype(jnp.float32))
    np.testing.assert_array_equal(half, exact.astype(jnp.bfloat16))


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="`scale` is 'standard' or 'unit', got 'rows'"):
        batch_norm(jnp.ones((2, 2)), scale="rows")
    with pytest.raises(ValueError, match=r"`x` has the shape .*got \(2,\)"):
        batch_norm(jnp.ones(2))


def rotated_and_normalized(x, samples):
    """[samples, n, d]: BN of x under Haar rotations of its features."""
    rotations = orthonormal(1, (samples, *x.shape[1:] * 2))
    return np.asarray(unit(x @ rotations))


def test_a_rotation_before_raises_the_isometry_as_by_theorem_3(x64):
    d = 6
    x = np.asarray(unit(gaussian(0, (d, d))))
    eigenvalues = np.linalg.eigvalsh(x.T @ x)
    before = float(isometry(x.T))
    after = np.asarray(isometry(rotated_and_normalized(x, 2000).mT))
    # For each rotation, by the lemma; more on average, by the theorem.
    assert (after >= before * (1 - 1e-12)).all()
    bound = before / (1 - np.sum((eigenvalues - 1) ** 2) / (2 * d**2 * (d + 2)))
    assert after.mean() > bound > before


def test_near_isometry_the_defect_shrinks_by_its_sharp_rate(x64):
    # X X' = I + E: BN deletes the diagonal of Q E Q', on average 2 / (d + 2) of |E|^2, as tr E = 0.
    # The bound of the theorem is weaker by about 2 d.
    d = 10
    x = np.asarray(unit(np.eye(d) + 1e-3 * gaussian(0, (d, d))))
    y = rotated_and_normalized(x, 4000)
    defect = lambda x: np.sum((x.mT @ x - np.eye(d)) ** 2, (-2, -1))
    assert defect(y).mean() / defect(x) == pytest.approx(1 - 2 / (d + 2), abs=0.005)
    gaps = np.asarray(isometry_gap(y.mT))
    assert gaps.mean() / isometry_gap(x.T) == pytest.approx(1 - 2 / (d + 2), abs=0.01)
