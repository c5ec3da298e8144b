import jax
import jax.numpy as jnp
import numpy as np
import optax
from matrices_of import gaussian, orthonormal

from orthojax import scale_by_vector_adam
from orthojax.matrices import MatrixAxes

STACK = MatrixAxes(-2, -1)


def test_it_is_adam_with_one_second_moment_a_matrix(x64):
    grads = [{"w": gaussian(seed, (2, 4, 3))} for seed in range(3)]
    tx = scale_by_vector_adam(0.8, 0.9, 1e-3, axes=STACK)
    state = tx.init(grads[0])
    assert state.nu["w"].shape == (2, 1, 1)
    mu, nu = np.zeros((2, 4, 3)), np.zeros(2)
    for t, g in enumerate(grads, 1):
        updates, state = jax.jit(tx.update)(g, state)
        mu = 0.8 * mu + 0.2 * g["w"]
        nu = 0.9 * nu + 0.1 * np.sum(g["w"] ** 2, axis=(1, 2))
        root = np.sqrt(nu / (1 - 0.9**t)) + 1e-3
        np.testing.assert_allclose(
            updates["w"], mu / (1 - 0.8**t) / root[:, None, None], atol=1e-13
        )


def test_a_change_of_basis_changes_the_updates_alike(x64):
    grads = gaussian(0, (3, 5, 4))
    q, p = orthonormal(2, (5, 5)), orthonormal(3, (4, 4))

    def updates(tx, grads):
        step = lambda state, g: tx.update(g, state)[::-1]
        return np.asarray(jax.jit(lambda g: jax.lax.scan(step, tx.init(g[0]), g)[1])(grads))

    for tx, equivariant in ((scale_by_vector_adam(), True), (optax.scale_by_adam(), False)):
        error = np.abs(updates(tx, q @ grads @ p) - q @ updates(tx, grads) @ p).max()
        assert (error < 1e-14) == equivariant


def test_its_moments_are_float32_for_lower_precisions_and_pass_over_masked_leaves():
    params = {"w": jnp.ones((4, 3), jnp.bfloat16), "b": jnp.ones(3)}
    tx = optax.masked(scale_by_vector_adam(), {"w": True, "b": False})
    updates, state = tx.update(params, tx.init(params))
    assert updates["w"].dtype == jnp.bfloat16
    assert {x.dtype for x in jax.tree.leaves(state.inner_state[1:])} == {jnp.dtype(jnp.float32)}
    np.testing.assert_array_equal(updates["b"], params["b"])
