"""Polar decomposition: W = the orthonormal matrix nearest to B + theta."""

from orthojax import decompositions
from orthojax.parameterization import Parameterization, around_a_point


def polar() -> Parameterization:
    """W = polar factor U V' of B + theta = U S V', around a base point B = W.

    The orthonormal matrix nearest to B + theta (Fan and Hoffman 1955). Range: all of the Stiefel
    manifold, in square shape the component of B. Treats all columns alike, as QR does not.

    Cost of `forward`: Newton-Schulz products until convergence, 2 products n p^2 a step, 3 to 12
    steps (see `orthonormalize`); its derivative an eigendecomposition of W'(B + theta) [p,
    p], divided by sigma_i + sigma_j, never by their differences. With `rebase_every=1` no
    derivative is taken. Holds two copies of W (base, theta).

    >>> import jax.numpy as jnp, orthojax
    >>> p = orthojax.polar()
    >>> base, theta = p.init(jnp.eye(2))
    >>> bool(jnp.allclose(p.forward(base, 3 * jnp.eye(2)), jnp.eye(2), atol=1e-6))
    True
    """

    return around_a_point(
        lambda base, theta: decompositions.polar(base + theta), is_projection=True
    )
