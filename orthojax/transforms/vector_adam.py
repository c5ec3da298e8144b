"""Adam that does not depend on the basis: one second moment a matrix."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from orthojax.linalg import at_least_float32, wide_dtype
from orthojax.matrices import MatrixAxes, Rules, Views


class ScaleByVectorAdamState(NamedTuple):
    """State of `scale_by_vector_adam`."""

    count: jax.Array  # [] int32, number of updates
    mu: chex.ArrayTree  # as params, in at least float32
    nu: chex.ArrayTree  # a number for each matrix: as params, with 1 for the axes of matrices


def scale_by_vector_adam(
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    axes: MatrixAxes | Rules | None = None,
) -> optax.GradientTransformation:
    """Adam with one second moment for a whole matrix, the mean of |G|_F^2:

        mu = b1 mu + (1 - b1) G,  nu = b2 nu + (1 - b2) |G|_F^2,  mu^ / (sqrt(nu^) + eps)

    with the bias corrections ^ of Adam (Ling, Sharp, Jacobson 2022, arXiv:2205.13599, for vectors;
    Javaloy, Vergari 2026, arXiv:2602.14656, for matrices). A change of basis W -> Q W P changes the
    updates alike, where Adam's depend on the basis; and the update of a matrix, before the learning
    rate, has a Frobenius norm of about 1 or less, where Adam's is near sqrt(n p).

    Args:
      b1, b2: decay rates of the means.
      eps: added to the root of the second moment.
      axes: as in `reparameterize`; what is batch there has its own second moments. As `inner` of
        `reparameterize` it sees theta, matrices in the last two axes: MatrixAxes(-2, -1).

    State: a copy of params, in at least float32, and a number a matrix. No product.

    >>> import jax.numpy as jnp
    >>> from orthojax.transforms.vector_adam import scale_by_vector_adam
    >>> tx = scale_by_vector_adam()
    >>> g = {"kernel": jnp.array([[3.0, 0.0], [0.0, 4.0]])}
    >>> updates, _ = tx.update(g, tx.init(g))
    >>> float(jnp.linalg.norm(updates["kernel"]).round(4))
    1.0
    """

    def over_matrices(f, tree):
        """Tree of f(leaf, its axes that are not batch)."""
        views = Views.of(tree, axes)

        def one(matrix, x):
            if matrix.blocks > 1:
                raise ValueError(
                    "`scale_by_vector_adam` knows no `blocks`; put it inside `reparameterize`, "
                    f"which hands it matrices, or give other axes than {matrix}."
                )
            batch = matrix.batch(x.shape)
            return f(x, tuple(i for i in range(x.ndim) if i not in batch))

        return views.treedef.unflatten(map(one, views.axes, jax.tree.leaves(tree)))

    def init_fn(params):
        wide = jax.tree.map(lambda p: jnp.zeros_like(p, wide_dtype(p.dtype)), params)
        zero = lambda x, matrix: jnp.zeros_like(jnp.sum(x, matrix, keepdims=True))
        return ScaleByVectorAdamState(
            count=jnp.zeros([], jnp.int32), mu=wide, nu=over_matrices(zero, wide)
        )

    def update_fn(updates, state, params=None):
        del params
        wide = jax.tree.map(at_least_float32, updates)
        squares = over_matrices(lambda g, matrix: jnp.sum(g * g, matrix, keepdims=True), wide)
        mu = optax.tree.update_moment(wide, state.mu, b1, 1)
        nu = optax.tree.update_moment(squares, state.nu, b2, 1)
        count = optax.safe_increment(state.count)
        steps = jax.tree.map(
            lambda m, v, g: (m / (jnp.sqrt(v) + eps)).astype(g.dtype),
            optax.tree.bias_correction(mu, b1, count),
            optax.tree.bias_correction(nu, b2, count),
            updates,
        )
        return steps, ScaleByVectorAdamState(count=count, mu=mu, nu=nu)

    return optax.GradientTransformation(init_fn, update_fn)
