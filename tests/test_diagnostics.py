import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matrices_of import defect, gaussian, orthonormal

from orthojax import MatrixAxes, diagnostics


def test_orthogonality_errors_are_their_formulas(x64):
    w = gaussian(0, (3, 3, 2, 5))
    matrix = w.reshape(18, 5)
    assert diagnostics.orthogonality_error(w) == pytest.approx(defect(matrix))
    expected = np.linalg.norm(matrix.T @ matrix - np.eye(5)) / 5**0.5
    assert diagnostics.relative_orthogonality_error(w) == pytest.approx(expected)


def test_the_worst_of_a_batch_counts():
    stack = np.stack([np.eye(3), 2 * np.eye(3)])
    assert diagnostics.orthogonality_error(stack, MatrixAxes(-2, -1)) == 3


def test_ranks_and_ranges_of_a_known_spectrum(x64):
    s = np.array([4.0, 2.0, 1.0])
    w = (orthonormal(0, (6, 3)) * s) @ orthonormal(1, (3, 3)).T
    np.testing.assert_allclose(diagnostics.singular_value_range(w), (1, 4))
    assert diagnostics.stable_rank(w) == pytest.approx(21 / 16)
    p = s / s.sum()
    assert diagnostics.effective_rank(w) == pytest.approx(np.exp(-np.sum(p * np.log(p))))
    assert diagnostics.effective_rank(orthonormal(0, (6, 3))) == pytest.approx(3)
    assert diagnostics.effective_rank(np.ones((4, 3))) == pytest.approx(1, abs=1e-6)


def test_the_isometry_gap_is_that_of_the_gram_matrix(x64):
    x = gaussian(0, (4, 7))
    eigenvalues = np.linalg.eigvalsh(x @ x.T)
    expected = np.log(eigenvalues.mean()) - np.log(eigenvalues).mean()
    assert diagnostics.isometry_gap(x) == pytest.approx(expected)
    assert diagnostics.isometry_gap(10 * x) == pytest.approx(expected)
    assert diagnostics.isometry_gap(3 * orthonormal(0, (7, 4)).T) == pytest.approx(0, abs=1e-12)
    assert np.isinf(diagnostics.isometry_gap(gaussian(0, (7, 4))))


def test_basis_stability_sees_the_bases_and_not_the_spectrum(x64):
    u, v, s = orthonormal(0, (6, 3)), orthonormal(1, (3, 3)), np.array([3.0, 2.0, 1.0])
    w, rescaled = (u * s) @ v.T, (u * s[::-1] * 5) @ v.T
    assert diagnostics.basis_stability(w, rescaled) == pytest.approx(1)
    assert diagnostics.basis_stability(w, -w) == pytest.approx(-1)
    flipped = (u * s) @ (v * [1, 1, -1]).T
    assert diagnostics.basis_stability(w, flipped) == pytest.approx(1 / 3)
    assert abs(diagnostics.basis_stability(gaussian(2, (200, 100)), gaussian(3, (200, 100)))) < 0.05


def test_log_norms_neither_overflow_nor_vanish():
    grads = {
        "first": {"kernel": jnp.full((4,), 1e30)},
        "last": {"kernel": jnp.full((4,), 1e-30)},
        "none": {"kernel": jnp.zeros((4,))},
    }
    norms = jax.jit(diagnostics.log_norms)(grads)
    assert norms["first/kernel"] == pytest.approx(np.log(2e30), rel=1e-6)
    assert norms["last/kernel"] == pytest.approx(np.log(2e-30), rel=1e-6)
    assert norms["none/kernel"] == -np.inf
