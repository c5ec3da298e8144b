"""Numbers to watch, as functions of arrays: nothing here belongs in an optimizer's state.

Kernels are viewed by `axes` (a `MatrixAxes`, default: that of a Flax kernel) as tall matrices
`(*batch, n, p)`; the largest value over the batch, or the smallest where small is bad, is returned
as one float32 or float64 scalar. All are jit-safe. Those that need singular values cost an SVD:
call them at evaluation time, not in the training step.

Functions of batches, gradients and Jacobians take their arrays as they are, not by `axes`.
"""

import contextlib
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from orthojax.linalg import at_least_float32, eye_like, frobenius, matmul
from orthojax.matrices import KERNELS, MatrixAxes, Rules, constrained, default_axes, path_name


def _matrix(kernel, axes):
    kernel = at_least_float32(jnp.asarray(kernel))
    return (default_axes("kernel", kernel) if axes is None else axes).view(kernel)


def orthogonality_error(kernel: jax.Array, axes: MatrixAxes | None = None) -> jax.Array:
    """max |W'W - I|, the largest entry; of a kernel with more outputs than inputs max |W W' - I|.

    What an orthogonal float32 kernel has is 1e-7 to 2e-6.

    >>> import jax.numpy as jnp
    >>> float(orthogonality_error(jnp.eye(4)[:, :2])), float(orthogonality_error(2 * jnp.eye(3)))
    (0.0, 3.0)
    """
    w = _matrix(kernel, axes)
    return jnp.max(jnp.abs(matmul(w.mT, w) - eye_like(w)))


def orthogonality_errors(params: chex.ArrayTree, rules: Rules = KERNELS) -> dict[str, jax.Array]:
    """{path: max |W'W - I|} of the leaves that `rules`, those of `orthojax.orthogonal`,
    make orthogonal.

    >>> import jax.numpy as jnp
    >>> params = {"dense": {"kernel": 2 * jnp.eye(3), "bias": jnp.zeros(3)}}
    >>> {path: float(error) for path, error in orthogonality_errors(params).items()}
    {'dense/kernel': 3.0}
    """
    chosen = constrained(params, rules)
    return {name: orthogonality_error(leaf, axes) for name, (leaf, axes) in chosen.items()}


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


def hyperspherical_energy(kernel: jax.Array, axes: MatrixAxes | None = None) -> jax.Array:
    """sum over i != j of 1 / |w_i - w_j| of the neurons, the columns of the kernel as a matrix
    [inputs, outputs], each divided by its length (Liu et al. 2018, arXiv:1805.09298, with s = 1).

    Small where directions are spread evenly; infinite where two are the same. It does not change
    when all neurons turn together, W -> R W, as in orthogonal fine-tuning (Qiu et al. 2023,
    arXiv:2306.07280), nor with their lengths. Costs inputs x outputs^2, and no memory: the
    differences are taken one neuron after another, exact where an inner product would cancel.

    >>> import jax.numpy as jnp
    >>> float(hyperspherical_energy(jnp.array([[1.0, -3.0], [0.0, 0.0]])))  # Opposite: 2 x 1/2.
    1.0
    """
    kernel = at_least_float32(jnp.asarray(kernel))
    w = (default_axes("kernel", kernel) if axes is None else axes).matrix(kernel)
    neurons, _ = _scaled(w.reshape(-1, *w.shape[-2:]).mT, -1)
    length = jnp.sqrt(jnp.sum(neurons**2, axis=-1, keepdims=True))
    neurons = neurons / jnp.where(length == 0, 1, length)
    others = ~jnp.eye(neurons.shape[-2], dtype=bool)

    def of_one(i):  # [batch], energy between neuron i and all others.
        distance = jnp.sqrt(jnp.sum((neurons - neurons[:, i, None]) ** 2, axis=-1))
        return jnp.sum(jnp.where(others[i], 1 / distance, 0), axis=-1)

    energies = jax.lax.map(of_one, jnp.arange(neurons.shape[-2]))
    return jnp.max(jnp.sum(energies, axis=0))


def isometry_gap(x: jax.Array) -> jax.Array:
    """log of arithmetic over geometric mean of the eigenvalues of G = X X', X [..., d, n]:
    -log(det(G)^{1/d} / (tr(G) / d)).

    Zero if and only if the rows of X are orthogonal and of one length; infinite for a degenerate X.
    Meterez, Joudaki, Orabona, Immer, Raetsch, Daneshmand 2023, arXiv:2310.02012, eq. 5.
    Shape [...].
    """
    x = at_least_float32(x)
    if x.shape[-2] > x.shape[-1]:
        return jnp.full(x.shape[:-2], jnp.inf, x.dtype)
    s, _ = _scaled(jnp.linalg.svd(x, compute_uv=False), -1)  # The scale cancels.
    gap = jnp.log(jnp.mean(s * s, axis=-1)) - jnp.mean(2 * jnp.log(s), axis=-1)
    # Zeros have no mean either.
    return jnp.where(s[..., 0] == 0, jnp.inf, gap)


def isometry(x: jax.Array) -> jax.Array:
    """exp(-`isometry_gap`(x)), x [..., d, n]: geometric over arithmetic mean of the eigenvalues of
    X X'.

    Between 0, degenerate, and 1, orthogonal rows of one length. arXiv:2310.02012, eq. 5. [...].

    >>> import jax.numpy as jnp
    >>> float(isometry(3 * jnp.eye(2, 4))), float(isometry(jnp.ones((2, 2))))
    (1.0, 0.0)
    """
    return jnp.exp(-isometry_gap(x))


def gram_rank(x: jax.Array, dtype: jax.typing.DTypeLike | None = None) -> jax.Array:
    """The number of eigenvalues of X X' above n eps times the largest one, x [..., n, d]: int32
    [...].

    `matrix_rank` of the Gram matrix of n samples, as NumPy and PyTorch have it. A Gram matrix
    squares the singular values of X: those below sqrt(n eps) of the largest, 0.8% for n = 500 in
    float32, are not seen, and large batches of full rank seem deficient. Meterez et al. 2023,
    arXiv:2310.02012, app. D, count in float32.

    Args:
      x: rows are samples.
      dtype: that of product, eigenvalues and eps; None for that of `x`, float32 at least. float64
        works without JAX's x64 mode, then of concrete arrays only, not under `jit` or `vmap`.

    >>> import jax.numpy as jnp
    >>> x = jnp.diag(jnp.array([1.0, 0.1, 1e-5]))
    >>> int(gram_rank(x)), int(gram_rank(x, jnp.float64))
    (2, 3)
    """
    dtype = jnp.dtype(at_least_float32(x).dtype if dtype is None else dtype)
    mode = contextlib.nullcontext()
    if dtype == np.float64 and not jax.config.jax_enable_x64:
        if isinstance(x, jax.core.Tracer):
            raise ValueError(
                "`dtype` float64 of a traced `x` needs JAX's x64 mode: call `gram_rank` outside "
                "`jit` and `vmap`, or within `jax.enable_x64(True)`."
            )
        mode = jax.enable_x64(True)
    with mode:
        x = jnp.asarray(x, dtype)
        eigenvalues = jnp.abs(jnp.linalg.eigvalsh(matmul(x, x.mT)))
        tolerance = x.shape[-2] * jnp.finfo(dtype).eps * jnp.max(eigenvalues, -1, keepdims=True)
        return jnp.sum(eigenvalues > tolerance, axis=-1, dtype=jnp.int32)


def mean_correlation(x: jax.Array) -> jax.Array:
    """Mean cosine of two different rows of x [..., n, d]: [...]. Rows of zeros count as orthogonal.

    Tends to 1 with depth where a network makes its inputs indistinguishable.

    >>> import jax.numpy as jnp
    >>> float(mean_correlation(jnp.ones((3, 4)))), float(mean_correlation(jnp.eye(3)))
    (1.0, 0.0)
    """
    n = x.shape[-2]
    if n < 2:
        raise ValueError(f"`x` [..., n, d] needs two rows to compare, got the shape {x.shape}.")
    x, _ = _scaled(at_least_float32(x), -1)
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    unit = x / jnp.sqrt(jnp.where(square == 0, 1, square))
    return (jnp.sum(jnp.sum(unit, axis=-2) ** 2, -1) - jnp.sum(unit**2, (-2, -1))) / (n * (n - 1))


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


def _scaled(x, axis):
    """x / m, m for m = max |x| over `axis`, kept; 1 where that is 0."""
    largest = jnp.max(jnp.abs(x), axis=axis, keepdims=True)
    largest = jnp.where(largest == 0, 1, largest)
    return x / largest, largest


def log_norm(x: jax.Array, axis: int | tuple[int, ...] | None = None) -> jax.Array:
    """log |x|_F over `axis`, all axes for None; -inf for zeros.

    Scaled by the largest entry first, so that gradients of 1e30 or 1e-30, as in deep networks,
    neither overflow nor vanish. One value a layer for stacked kernels [L, n, p]: axis=(-2, -1).

    >>> import jax.numpy as jnp
    >>> log_norm(jnp.array([[1.0, 0.0], [0.0, 0.0]]), axis=-1)
    Array([  0., -inf], dtype=float32)
    """
    scaled, largest = _scaled(at_least_float32(x), axis)
    return jnp.squeeze(jnp.log(largest), axis) + jnp.log(jnp.sum(scaled**2, axis=axis)) / 2


def log_norms(grads: chex.ArrayTree) -> dict[str, jax.Array]:
    """`log_norm` of each leaf by its path, e.g. gradients layer by layer.

    >>> import jax.numpy as jnp
    >>> norms = log_norms({"a": {"kernel": jnp.full((2, 2), 1e30)}})
    >>> {name: round(float(norm), 3) for name, norm in norms.items()}
    {'a/kernel': 69.771}
    """
    leaves = jax.tree_util.tree_leaves_with_path(grads)
    return {path_name(path): log_norm(leaf) for path, leaf in leaves}


def rate_of_explosion(log_norms: jax.Array, gap: int | None = None) -> jax.Array:
    """(log |g_l| - log |g_{l + gap}|) / gap for the gradients g_l of layers l, e.g. by `log_norm`:
    [..., L] -> [..., L - gap].

    Positive where gradients grow on their way back, by this power of e a layer; to stay bounded at
    any depth the rates must have a finite sum. Meterez et al. 2023, arXiv:2310.02012, app. E.

    Args:
      log_norms: [..., L].
      gap: from 1 to L - 1. Single layers differ at random, the more visibly the smaller the gap;
        None for L // 10, at least 1.

    >>> import jax.numpy as jnp
    >>> rate_of_explosion(jnp.array([3.0, 2.0, 1.0, 1.0]), gap=2)
    Array([1. , 0.5], dtype=float32)
    """
    layers = log_norms.shape[-1]
    gap = max(1, layers // 10) if gap is None else gap
    if not 1 <= gap < layers:
        raise ValueError(f"`gap` is at least 1 and less than the {layers} layers, got {gap}.")
    return (log_norms[..., :-gap] - log_norms[..., gap:]) / gap


def _jacobian(f, x):
    if x.ndim != 1:
        raise ValueError(
            f"`x` is one example [n], got the shape {x.shape}: use `jax.vmap` for a batch."
        )
    # By columns or by rows, whichever are fewer.
    few = x.shape[0] <= jax.eval_shape(f, x).size
    return (jax.jacfwd if few else jax.jacrev)(f)(x)


def jacobian_spectrum(f: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """Singular values, descending, of the Jacobian of f: [n] -> [m] at one example x [n]:
    [min(m, n)].

    All 1 is dynamical isometry (Saxe, McClelland, Ganguli 2013, arXiv:1312.6120).

    >>> import jax, jax.numpy as jnp
    >>> jacobian_spectrum(jax.nn.relu, jnp.array([1.0, -1.0]))
    Array([1., 0.], dtype=float32)
    """
    return jnp.linalg.svd(_jacobian(f, x), compute_uv=False)


class SubspaceIsometry(NamedTuple):
    """What `subspace_isometry` returns; isometric: 1, 1, 0, and `norm` at most 1."""

    smallest: jax.Array  # [] smallest singular value of V_out' J V_in
    largest: jax.Array  # [] largest singular value of V_out' J V_in
    leak: jax.Array  # [] |(I - V_out V_out') J V_in|_2
    norm: jax.Array  # [] |J|_2


def subspace_isometry(
    f: Callable[[jax.Array], jax.Array], x: jax.Array, v_in: jax.Array, v_out: jax.Array
) -> SubspaceIsometry:
    """Whether the Jacobian J of f: [n] -> [n'] at one example x [n] carries the span of v_in [n, m]
    isometrically to that of v_out [n', m], both with orthonormal columns.

    If it does in every layer, one span after the other, then |g_in| >= |V_out' g_out| for the
    gradients at both ends of a network of any depth, since |V_in' J'g_out| = |(J V_in)' g_out|; and
    |g_in| <= |g_out| if also |J|_2 <= 1. Subspace orthogonality: Massucco, Murari, Schoenlieb 2025,
    arXiv:2508.02882.

    >>> import jax, jax.numpy as jnp
    >>> v = jnp.eye(3)[:, :1]
    >>> [float(value) for value in subspace_isometry(jax.nn.relu, jnp.array([1.0, 2, -1]), v, v)]
    [1.0, 1.0, 0.0, 1.0]
    """
    j = _jacobian(f, x)
    if v_in.ndim != 2 or v_out.shape != (j.shape[0], v_in.shape[1]) or len(v_in) != len(x):
        raise ValueError(
            f"`v_in` and `v_out` have the shapes [{len(x)}, m] and [{j.shape[0]}, m] for this f, "
            f"got {v_in.shape} and {v_out.shape}."
        )
    moved = matmul(j, v_in)
    inside = matmul(v_out.mT, moved)
    s = jnp.linalg.svd(inside, compute_uv=False)
    leak = jnp.linalg.norm(moved - matmul(v_out, inside), ord=2)
    return SubspaceIsometry(smallest=s[-1], largest=s[0], leak=leak, norm=jnp.linalg.norm(j, ord=2))
