"""Numbers to watch, as functions of arrays: nothing here belongs in an optimizer's state.

Kernels are viewed by `axes` (a `MatrixAxes`, default: that of a Flax kernel) as tall matrices
`(*batch, n, p)`; the largest value over the batch, or the smallest where small is bad, is returned
as one float32 or float64 scalar. All are jit-safe. Those that need singular values cost an SVD:
call them at evaluation time, not in the training step.
"""

import chex
import jax
import jax.numpy as jnp

from orthojax.linalg import at_least_float32, eye_like, frobenius, matmul
from orthojax.matrices import MatrixAxes, default_axes, path_name


def _matrix(kernel, axes):
    kernel = at_least_float32(jnp.asarray(kernel))
    return (default_axes("kernel", kernel) if axes is None else axes).view(kernel)


def orthogonality_error(kernel: jax.Array, axes: MatrixAxes | None = None) -> jax.Array:
    """max |W'W - I|, the largest entry.

    >>> import jax.numpy as jnp
    >>> float(orthogonality_error(jnp.eye(4)[:, :2])), float(orthogonality_error(2 * jnp.eye(3)))
    (0.0, 3.0)
    """
    w = _matrix(kernel, axes)
    return jnp.max(jnp.abs(matmul(w.mT, w) - eye_like(w)))


def relative_orthogonality_error(kernel: jax.Array, axes: MatrixAxes | None = None) -> jax.Array:
    """|W'W - I|_F / sqrt(p): comparable between sizes."""
    w = _matrix(kernel, axes)
    return jnp.max(frobenius(matmul(w.mT, w) - eye_like(w))) / w.shape[-1] ** 0.5


def singular_value_range(
    kernel: jax.Array, axes: MatrixAxes | None = None
) -> tuple[jax.Array, jax.Array]:
    """The smallest and the largest singular value."""
    s = jnp.linalg.svd(_matrix(kernel, axes), compute_uv=False)
    return jnp.min(s), jnp.max(s)


def isometry_gap(x: jax.Array) -> jax.Array:
    """log of arithmetic over geometric mean of the eigenvalues of G = X X', X [..., d, n]:
    -log(det(G)^{1/d} / (tr(G) / d)).

    Zero if and only if the rows of X are orthogonal and of one length; infinite for a degenerate X.
    Meterez, Joudaki, Orabona, Immer, Raetsch, Daneshmand 2023, arXiv:2310.02012, eq. 5.
    Shape [...].
    """
    x = at_least_float32(x)
    s = jnp.linalg.svd(x, compute_uv=False)[..., : x.shape[-2]]
    if x.shape[-2] > x.shape[-1]:
        return jnp.full(x.shape[:-2], jnp.inf, x.dtype)
    return jnp.log(jnp.mean(s * s, axis=-1)) - jnp.mean(2 * jnp.log(s), axis=-1)


def effective_rank(kernel: jax.Array, axes: MatrixAxes | None = None) -> jax.Array:
    """exp of the entropy of the normalized singular values (Roy and Vetterli 2007): 1 to p, the
    smallest of a batch."""
    s = jnp.linalg.svd(_matrix(kernel, axes), compute_uv=False)
    p = s / jnp.sum(s, axis=-1, keepdims=True)
    return jnp.min(jnp.exp(-jnp.sum(jax.scipy.special.xlogy(p, p), axis=-1)))


def stable_rank(kernel: jax.Array, axes: MatrixAxes | None = None) -> jax.Array:
    """|W|_F^2 / |W|_2^2 (Rudelson and Vershynin 2007): 1 to p, the smallest of a batch."""
    s = jnp.linalg.svd(_matrix(kernel, axes), compute_uv=False)
    return jnp.min(jnp.sum(s * s, axis=-1) / jnp.max(s, axis=-1) ** 2)


def singular_basis(kernel: jax.Array, axes: MatrixAxes | None = None) -> jax.Array:
    """U V' [*batch, n, p] of the singular vectors of W = U S V', those of zero singular values left
    out."""
    u, s, vt = jnp.linalg.svd(_matrix(kernel, axes), full_matrices=False)
    zero = jnp.finfo(s.dtype).eps * u.shape[-2] * s[..., :1]
    return matmul(jnp.where((s > zero)[..., None, :], u, 0), vt)


def similarity(before: jax.Array, after: jax.Array) -> jax.Array:
    """<A, B> / min(|A|^2, |B|^2) of two bases [*batch, n, p] from `singular_basis`, the smallest of
    a batch."""
    product = jnp.sum(before * after, axis=(-2, -1))
    return jnp.min(product / jnp.minimum(frobenius(before), frobenius(after)) ** 2)


def basis_stability(
    before: jax.Array, after: jax.Array, axes: MatrixAxes | None = None
) -> jax.Array:
    """tr((U1 V1')' U2 V2') / min(r1, r2) for SVDs U S V' of ranks r1, r2 of two states of one
    kernel: 1 where its basis U V' has not moved, though columns may have been dropped.

    The Stability of OIALR (Coquelin et al. 2024, arXiv:2401.08505), there the mean cosine
    similarity of the columns of U V', which at full rank is the same. About 0 for unrelated
    Gaussian kernels; the smallest of a batch.
    """
    return similarity(singular_basis(before, axes), singular_basis(after, axes))


def log_norms(grads: chex.ArrayTree) -> dict[str, jax.Array]:
    """log |G|_F of each leaf by its path, e.g. gradients layer by layer.

    Scaled by the largest entry first, so that gradients of 1e30 or 1e-30, as in deep networks,
    neither overflow nor vanish.

    >>> import jax.numpy as jnp
    >>> norms = log_norms({"a": {"kernel": jnp.full((2, 2), 1e30)}})
    >>> {name: round(float(norm), 3) for name, norm in norms.items()}
    {'a/kernel': 69.771}
    """

    def log_norm(g):
        g = at_least_float32(g)
        scale = jnp.max(jnp.abs(g))
        scale = jnp.where(scale > 0, scale, 1)
        return jnp.log(scale) + jnp.log(jnp.sum((g / scale) ** 2)) / 2

    leaves = jax.tree_util.tree_leaves_with_path(grads)
    return {path_name(path): log_norm(leaf) for path, leaf in leaves}
