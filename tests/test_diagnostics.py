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
    assert diagnostics.isometry_gap(1e200 * x) == pytest.approx(expected)
    assert np.isposinf(diagnostics.isometry_gap(gaussian(0, (7, 4))))
    assert np.isposinf(diagnostics.isometry_gap(np.zeros((4, 7))))


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


def test_the_log_norm_of_each_stacked_kernel(x64):
    g = gaussian(0, (3, 4, 5))
    expected = np.log(np.linalg.norm(g, axis=(1, 2)))
    of_each = jax.jit(lambda g: diagnostics.log_norm(g, axis=(-2, -1)))
    np.testing.assert_allclose(of_each(g), expected)
    np.testing.assert_allclose(diagnostics.log_norm(g), np.log(np.linalg.norm(g)))
    big = g.astype(np.float32) * np.float32(1e30)
    np.testing.assert_allclose(of_each(big), expected + 30 * np.log(10), rtol=1e-6)


def test_the_rate_of_explosion_is_the_slope_over_the_gap(x64):
    layers = np.arange(40.0)
    falling = np.stack([-0.1 * layers, 0.3 * layers])
    rate = diagnostics.rate_of_explosion(falling)
    assert rate.shape == (2, 36)
    np.testing.assert_allclose(rate, np.broadcast_to([[0.1], [-0.3]], rate.shape))
    noisy = gaussian(0, 9)
    np.testing.assert_allclose(diagnostics.rate_of_explosion(noisy, 3), (noisy[:6] - noisy[3:]) / 3)
    for gap in (0, 9):
        with pytest.raises(ValueError, match="`gap` is at least 1 and less than the 9 layers"):
            diagnostics.rate_of_explosion(noisy, gap)


def test_the_isometry_is_a_ratio_of_means():
    # Singular values 1 and 3: eigenvalues 1 and 9.
    x = np.diag([1.0, 3.0]).astype(np.float32) @ orthonormal(0, (4, 2), np.float32).T
    assert diagnostics.isometry(x) == pytest.approx(3 / 5, rel=1e-5)


def test_the_gram_rank_depends_on_the_precision():
    # Singular values of X down to 1e-4: their squares to 1e-8, below n eps of float32 only.
    s = np.concatenate([np.ones(30), np.full(10, 1e-4), np.zeros(10)])
    x = ((orthonormal(0, (50, 50)) * s) @ orthonormal(1, (60, 50)).T).astype(np.float32)
    assert diagnostics.gram_rank(x) == jax.jit(diagnostics.gram_rank)(x) == 30
    exact = x.astype(np.float64)
    expected = np.linalg.matrix_rank(exact @ exact.T)
    assert diagnostics.gram_rank(x, jnp.float64) == expected == 40
    both = diagnostics.gram_rank(np.stack([x, np.eye(50, 60, dtype=np.float32)]), np.float64)
    np.testing.assert_array_equal(both, [40, 50])
    with jax.enable_x64(True):
        traced = jax.jit(diagnostics.gram_rank)((orthonormal(0, (50, 50)) * s) @ np.eye(50, 60))
    assert traced == 40
    with pytest.raises(ValueError, match="call `gram_rank` outside `jit`"):
        jax.jit(lambda x: diagnostics.gram_rank(x, jnp.float64))(x)


def test_the_mean_correlation_is_that_of_all_pairs(x64):
    x = gaussian(0, (2, 5, 7)) + 1
    unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
    cosines = (unit @ unit.mT)[:, ~np.eye(5, dtype=bool)]
    mean_correlation = jax.jit(diagnostics.mean_correlation)
    np.testing.assert_allclose(mean_correlation(x), cosines.mean(-1))
    small = (1e-30 * x).astype(np.float32)
    np.testing.assert_allclose(mean_correlation(small), cosines.mean(-1), rtol=1e-5)
    x[0, 0] = 0  # 12 of 20 pairs are left.
    expected = cosines[0].reshape(5, 4)[1:, 1:].sum() / 20
    np.testing.assert_allclose(mean_correlation(x)[0], expected)
    with pytest.raises(ValueError, match="two rows"):
        diagnostics.mean_correlation(x[0, :1])


@pytest.mark.parametrize("shape", [(5, 3), (3, 5)])
def test_the_jacobian_spectrum(x64, shape):
    w, x = gaussian(0, shape), gaussian(1, shape[1])
    jacobian = np.cos(w @ x)[:, None] * w
    spectrum = jax.jit(lambda x: diagnostics.jacobian_spectrum(lambda x: jnp.sin(w @ x), x))(x)
    np.testing.assert_allclose(spectrum, np.linalg.svd(jacobian, compute_uv=False))
    with pytest.raises(ValueError, match=r"`x` is one example \[n\], got the shape \(2, 3\)"):
        diagnostics.jacobian_spectrum(jnp.sin, np.ones((2, 3)))


def test_subspace_isometry_sees_stretch_leak_and_the_rest(x64):
    u, v = orthonormal(0, (6, 6)), orthonormal(1, (5, 5))
    x, v_in, v_out = gaussian(2, 5), v[:, :2], u[:, :2]

    def measure(stretch, leak, rest):
        middle = np.zeros((6, 5))
        middle[:2, :2] = orthonormal(3, (2, 2)) @ np.diag([1, stretch])
        middle[3, 0] = leak
        middle[2:5, 2:] = rest * orthonormal(4, (3, 3))
        return diagnostics.subspace_isometry(lambda x: u @ (middle @ (v.T @ x)), x, v_in, v_out)

    np.testing.assert_allclose(measure(1, 0, 0.5), (1, 1, 0, 1), atol=1e-12)
    np.testing.assert_allclose(measure(0.25, 0, 3), (0.25, 1, 0, 3), atol=1e-12)
    assert measure(1, 0.1, 0).leak == pytest.approx(0.1)
    with pytest.raises(ValueError, match=r"have the shapes \[5, m\] and \[6, m\]"):
        diagnostics.subspace_isometry(lambda x: u[:, :5] @ x, x, v_out, v_in)
