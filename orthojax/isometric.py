"""Nonlinear layers whose Jacobian is an orthogonal matrix wherever it exists.

Rows are samples and kernels are [in, out], as in Flax. A smooth map with an orthogonal Jacobian is
a rotation, so these are piecewise affine: rigid motions joined along hyperplanes. With a slope of
-1 or 1 everywhere, psi(s) = alpha s + beta sigma(s), they are the layers of Massucco, Murari,
Schoenlieb 2025, arXiv:2508.02882, derived anew here; the fold is there the modified residual
layer, `isometric_dense` the modified feedforward one.

An orthogonal Jacobian keeps gradients at any depth. It does not keep inputs apart: folds along all
n directions with independent kernels map all inputs to one direction within some hundred layers;
few folds a layer do so more slowly, one kernel for all layers does not.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

Activation = Callable[[jax.Array], jax.Array]


def isometric_activation(
    activation: Activation = jax.nn.relu, slopes: Sequence[float] = (1.0, 0.0)
) -> Activation:
    """psi(s) = ((s1 + s2) s - 2 sigma(s)) / (s1 - s2) of a piecewise affine sigma: the one
    combination with derivative -1 where sigma has slope s1, and 1 where it has slope s2.

    For ReLU, (1, 0), and leaky ReLU, (1, slope), psi(s) = -|s|; for clip(s, 0, 1), (1, 0), it is a
    zigzag. At a kink the derivative is what JAX takes for sigma: of `jnp.abs` it is 0 there, and
    psi' is then not -1 or 1; of ReLU it is one of the slopes.

    Args:
      activation: sigma, elementwise, which has these two slopes and no others; not checked.
      slopes: (s1, s2).

    Raises:
      ValueError: the two slopes are equal.

    >>> import jax, jax.numpy as jnp
    >>> psi = isometric_activation(lambda s: jax.nn.leaky_relu(s, 0.5), (1, 0.5))
    >>> psi(jnp.array([-2.0, 3.0]))
    Array([-2., -3.], dtype=float32)
    """
    s1, s2 = slopes
    if s1 == s2:
        raise ValueError(
            f"`slopes` are the two different slopes of `activation`, got {s1} twice; "
            "for ReLU they are (1, 0)."
        )
    return lambda s: ((s1 + s2) * s - 2 * activation(s)) / (s1 - s2)


def fold(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    activation: Activation = jax.nn.relu,
    slopes: Sequence[float] = (1.0, 0.0),
    precision: jax.lax.PrecisionLike = None,
) -> jax.Array:
    """x - 2 phi(z) K', z = x K + b, phi = (sigma - s2 id) / (s1 - s2) of slopes 1 and 0.

    The Jacobian I - 2 K D K', D = diag(phi'(z)), is a product of reflections along the columns of
    K where sigma has slope s1; for ReLU the space is folded along h hyperplanes. With h = n it is
    psi(z) K' - b K'.

    Conversely these are all layers x A + sigma(x K + b) B, the columns of K independent and all in
    use, with an orthogonal Jacobian, up to a rotation and a shift of the output and the scale of
    columns: between two activation patterns that differ in unit i the Jacobian changes by a matrix
    of rank one, which takes an orthogonal matrix to another only by the reflection along the normal
    of the border, column i of K. Reflections along two columns at once, I - 2 p p' - 2 q q', are
    orthogonal only if p'q = 0.

    Args:
      x: [..., n].
      kernel: [n, h] of orthonormal columns, h <= n, which is the caller's to ensure.
      bias: [h] or a scalar.
      activation: sigma, as in `isometric_activation`.
      slopes: (s1, s2).
      precision: of the products. An accelerator's default, of 8 to 11 bits, is also the precision
        of the Jacobian; "highest" keeps it orthogonal to float32.

    Returns:
      [..., n].

    Raises:
      ValueError: more columns than rows, or equal slopes.
    """
    if kernel.shape[-1] > kernel.shape[-2]:
        raise ValueError(
            "A fold has at most as many directions as features: `kernel` [n, h] needs h <= n for "
            f"orthonormal columns, got {tuple(kernel.shape)}."
        )
    psi = isometric_activation(activation, slopes)
    z = jnp.matmul(x, kernel, precision=precision) + bias
    # psi = id - 2 phi.
    return x + jnp.matmul(psi(z) - z, kernel.mT, precision=precision)


def isometric_dense(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    out_kernel: jax.Array,
    activation: Activation = jax.nn.relu,
    slopes: Sequence[float] = (1.0, 0.0),
    precision: jax.lax.PrecisionLike = None,
) -> jax.Array:
    """psi(x K + b) Q for orthogonal K and Q [n, n], psi as in `isometric_activation`.

    The Jacobian is K diag(+-1) Q. Arguments otherwise as for `fold`, to which it is equal, but for
    a shift, if Q = K'.
    """
    psi = isometric_activation(activation, slopes)
    z = jnp.matmul(x, kernel, precision=precision) + bias
    return jnp.matmul(psi(z), out_kernel, precision=precision)


def max_min(x: jax.Array) -> jax.Array:
    """(max(a, b), min(a, b)) of each pair of neighbours a, b of the features of `x` [..., n].

    A permutation of the features, chosen by the input; the fold along the n/2 directions
    (e_2i - e_2i-1) / sqrt 2. Anil, Lucas, Grosse 2019, arXiv:1811.05381 (GroupSort of groups of 2).

    Raises:
      ValueError: an odd number of features.

    >>> import jax.numpy as jnp
    >>> max_min(jnp.array([1.0, 2.0, 4.0, 3.0]))
    Array([2., 1., 4., 3.], dtype=float32)
    """
    if x.shape[-1] % 2:
        raise ValueError(f"`max_min` pairs the features: `x` needs an even number, got {x.shape}.")
    a, b = x[..., ::2], x[..., 1::2]
    # Not `maximum`, whose derivative at a tie is the mean of both: zero pixels make many ties.
    swap = b > a
    pairs = jnp.stack([jnp.where(swap, b, a), jnp.where(swap, a, b)], axis=-1)
    return pairs.reshape(x.shape)
