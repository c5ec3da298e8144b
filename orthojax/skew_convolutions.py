"""Orthogonal convolutions by the exponential of a skew one (Singla, Feizi 2021, arXiv:2105.11417).

A kernel L whose operator is skew-symmetric, and exp(L) x = x + L x + L L x / 2 + ..., a convolution
a term. The kernel is free, and so is the size of the image.
"""

import math

import jax
import jax.numpy as jnp

from orthojax.convolutions import by_groups, circular_convolution, from_groups
from orthojax.linalg import at_least_float32, frobenius, matmul


def skew_kernel(kernel: jax.Array, groups: int = 1) -> jax.Array:
    """K - K' of the operator of `kernel` [k, l, c / groups, c], both windows odd: minus itself,
    turned by 180 degrees and with input and output exchanged.

    Raises:
      ValueError: an even window, whose turned one lies elsewhere, or in and out that differ.

    >>> import jax.numpy as jnp
    >>> skew_kernel(jnp.arange(3.0).reshape(3, 1, 1, 1)).ravel()
    Array([-2.,  0.,  2.], dtype=float32)
    """
    height, width, inputs, outputs = kernel.shape
    if not (height % 2 and width % 2) or inputs * groups != outputs:
        raise ValueError(
            "A skew-symmetric convolution has odd windows and as many channels out as in, got a "
            f"kernel of shape {tuple(kernel.shape)} with groups={groups}."
        )
    blocks = by_groups(kernel, groups)
    return from_groups(blocks - blocks[::-1, ::-1].mT)


def _spectral_bound(x):
    """Upper bound [...] of the spectral norms of `x` [..., n, p], at most p^(1/32) times them: the
    Schatten norm of order 32, |(X'X)^8|_F^(1/16), by products."""
    entry = jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True)  # Powers overflow, or vanish.
    x = x / jnp.where(entry > 0, entry, 1)
    k, log = matmul(x.mT, x), 0.0
    for power in (8, 4, 2):  # of what is taken out of (X'X)^8
        norm = jnp.maximum(frobenius(k), jnp.finfo(x.dtype).tiny)
        log = log + power * jnp.log(norm)
        k = k / norm[..., None, None]
        k = matmul(k, k)
    log = log + jnp.log(jnp.maximum(frobenius(k), jnp.finfo(x.dtype).tiny))
    return entry[..., 0, 0] * jnp.exp(log / 16)


def norm_bound(kernel: jax.Array, groups: int = 1) -> jax.Array:
    """Upper bound [groups] of the Lipschitz constants of a convolution by `kernel` [k, l, in /
    groups, out], for images of any size, by products alone.

    sqrt(k l) times the least norm of four matrices made of the kernel: [k l in, out], [in, k l
    out], [k in, l out], [l in, k out] (Singla, Feizi 2021, "Fantastic Four", arXiv:1911.10258),
    each bounded by its Schatten norm of order 32. For skew kernels of Gaussian 3x3 ones with 4 to
    64 channels 1.5 to 1.8 times too large.

    >>> import jax, jax.numpy as jnp
    >>> norm_bound(jnp.ones((3, 1, 1, 1)))
    Array([3.], dtype=float32)
    """
    blocks = jnp.moveaxis(by_groups(at_least_float32(kernel), groups), 2, 0)
    count, height, width, inputs, _ = blocks.shape
    matrices = [
        jnp.transpose(blocks, axes).reshape(count, rows, -1)
        for axes, rows in (
            ((0, 1, 2, 3, 4), height * width * inputs),
            ((0, 3, 1, 2, 4), inputs),
            ((0, 1, 3, 2, 4), height * inputs),
            ((0, 2, 3, 1, 4), width * inputs),
        )
    ]
    tall = [m if m.shape[-2] >= m.shape[-1] else m.mT for m in matrices]
    return math.sqrt(height * width) * jnp.min(
        jnp.stack([_spectral_bound(m) for m in tall]), axis=0
    )


def bounded_skew_kernel(kernel: jax.Array, angle: float = 1.0, groups: int = 1) -> jax.Array:
    """`skew_kernel`, shrunk where its Lipschitz constant may be above `angle`, each group by
    itself: exp of it turns vectors by no more.

    The factor is a constant for derivatives, and NaN-free at a kernel of zeros.
    """
    skew = skew_kernel(at_least_float32(kernel), groups)
    bound = jax.lax.stop_gradient(norm_bound(skew, groups))
    factor = angle / jnp.maximum(bound, angle)
    each = jnp.repeat(factor, skew.shape[-1] // groups).astype(skew.dtype)
    return skew * each.reshape(1, 1, 1, -1)


def truncation_error(angle: float, terms: int) -> float:
    """angle^terms / terms!: how far the first `terms` terms of exp(L) are from it, in the spectral
    norm, for skew L of norm at most `angle`: the remainder of exp(i t), |t| <= angle (Singla, Feizi
    2021).

    >>> truncation_error(1.0, 10) < 3e-7
    True
    """
    return angle**terms / math.factorial(terms)


def exponential_convolution(
    x: jax.Array,
    kernel: jax.Array,
    terms: int = 10,
    groups: int = 1,
    precision: jax.lax.PrecisionLike = None,
) -> jax.Array:
    """sum_{j < terms} L^j x / j! for images `x` [B, H, W, C], L the circular convolution by
    `kernel` [k, l, C / groups, C]; orthogonal up to `truncation_error` for a skew kernel.

    Cost: terms - 1 convolutions.

    Raises:
      ValueError: less than one term, or as of `circular_convolution`.

    >>> import jax, jax.numpy as jnp
    >>> kernel = jax.random.normal(jax.random.key(0), (3, 3, 4, 4))
    >>> x = jax.random.normal(jax.random.key(1), (1, 6, 6, 4))
    >>> y = jax.jit(lambda x: exponential_convolution(x, bounded_skew_kernel(kernel)))(x)
    >>> bool(jnp.allclose(jnp.linalg.norm(y), jnp.linalg.norm(x), rtol=1e-5))
    True
    """
    if terms < 1:
        raise ValueError(f"`terms` is their number, at least 1, got {terms}.")
    total = term = x
    for j in range(1, terms):
        term = circular_convolution(term, kernel / j, groups=groups, precision=precision)
        total = total + term
    return total
