"""QR decomposition: W = Q of B + theta."""

from typing import Literal

import jax.numpy as jnp

from orthojax.decompositions import qr_positive
from orthojax.inverses import triangular_inverse
from orthojax.linalg import matmul
from orthojax.parameterization import Parameterization, around_a_point


def _pull_back(base, theta, w, g):
    r = jnp.triu(matmul(w.mT, base + theta))
    inner = matmul(w.mT, g)
    h = g + matmul(w, jnp.tril(inner - inner.mT, -1) - inner)
    return matmul(h, triangular_inverse(r).mT)


def qr(method: Literal["householder", "cholesky"] = "householder") -> Parameterization:
    """W = Q of the QR decomposition of B + theta, with diag(R) > 0, around a base point B = W.

    `method="householder"` is LAPACK's QR, accurate for every theta of full rank; "cholesky" is
    CholeskyQR2, made of products and triangular solves, for cond(B + theta)^2 < 1/eps (in float32
    below 1e3), NaN beyond: fast where theta stays moderate or the base is renewed.

    Range: all of the Stiefel manifold, in square shape the component of B. Not invariant under a
    permutation of the columns, and the gradient grows with cond(B + theta). Cost of `forward`: one
    QR (as slow as hundreds of products on an accelerator); or 2 products n p^2, a Cholesky
    decomposition and a triangular inverse by products, all twice for a long theta; `pull_back` 4
    products and a triangular inverse, since R = W'(B + theta). Holds two copies of W (base, theta).

    >>> import jax.numpy as jnp, orthojax
    >>> p = orthojax.qr()
    >>> base, theta = p.init(jnp.eye(3)[:, :2])
    >>> bool(jnp.allclose(p.forward(base, theta), base, atol=1e-6))
    True
    """
    if method not in ("householder", "cholesky"):
        raise ValueError(f'`method` is "householder" or "cholesky", got {method!r}.')

    def forward(base, theta):
        return qr_positive(base + theta, method)

    return around_a_point(forward, _pull_back, is_projection=True)
