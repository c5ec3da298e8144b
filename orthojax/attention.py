"""Self-attention whose logits are bounded by construction.

Tokens x [T, n] are brought to at most unit root mean square, x~ = x / rms(x), |x~| <= sqrt(n), and

  l_ij = (scale / n) <x~_i Q, x~_j K>,   y_i = sum_j softmax_j(l_ij) x~_j V

for each head's kernels Q, K, V [n, d]. Where Q and K have orthonormal columns (one matrix a head:
`MatrixAxes(0, 2)` of Flax's [n, H, d]), |x~ Q| <= |x~|, hence

  |l_ij| <= scale,   softmax_j(l_ij) >= exp(-2 scale) / T,

whatever was learned. With orthonormal V too, where each x~_j moves by at most delta, y_i moves by
at most (1 + 2 scale) delta to first order, since |dl| <= 2 scale delta / sqrt(n) and the values lie
in the ball of radius sqrt(n): sum_j p_ij |v_j - y_i| <= (sum_j p_ij |v_j|^2)^(1/2). Dot-product
attention of unbounded tokens has no such constant (Kim, Papamakarios, Mnih 2021, arXiv:2006.04710).

The bound is of the worst pair of tokens: n / sqrt(d) is the usual scale 1 / sqrt(d) of normalized
tokens. Query-key normalization (Henry, Dachapally, Pawar, Chen 2020, arXiv:2010.04245) has |l_ij|
<= scale with any kernels, and normalizes the 2 H d numbers of all queries and keys instead of the n
of the token; the lengths |x~ Q| and |x~ K|, which it takes away, count here.
"""

import jax
import jax.numpy as jnp

from orthojax.linalg import at_least_float32

EPSILON = 1e-6


def rms_normalize(x: jax.Array) -> jax.Array:
    """x / sqrt(mean(x^2) + 1e-6) over the last axis, of x's dtype: |x~| < sqrt(n), and finite
    gradients at 0.

    Zhang, Sennrich 2019, arXiv:1910.07467, without a gain.
    """
    wide = at_least_float32(x)
    square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
    return (wide * jax.lax.rsqrt(square + EPSILON)).astype(x.dtype)


def _queries_and_keys(x, query, key, scale):
    """Normalized tokens, queries times what makes logits of them, and keys."""
    _check(x, query, key)
    tokens = rms_normalize(x)
    n, heads, _ = query.shape
    factor = jnp.broadcast_to(jnp.asarray(scale) / n, (heads,)).astype(x.dtype)
    queries = _project(tokens, query) * factor.reshape(*[1] * (x.ndim - 1), heads, 1)
    return tokens, queries, _project(tokens, key)


def _project(x, kernel):
    return jnp.einsum("...tn,nhd->...thd", x, kernel)


def bounded_logits(
    x: jax.Array, query: jax.Array, key: jax.Array, scale: float | jax.Array
) -> jax.Array:
    """The logits [..., H, T, T] of `bounded_attention`, in at least float32: |l| <= scale for
    orthonormal `query` and `key`."""
    _, q, k = _queries_and_keys(x, query, key, scale)
    q, k = at_least_float32(q), at_least_float32(k)
    return jnp.einsum("...ihd,...jhd->...hij", q, k)


def bounded_attention(
    x: jax.Array,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    scale: float | jax.Array,
    *,
    mask: jax.Array | None = None,
    is_causal: bool = False,
) -> jax.Array:
    """y_i = sum_j softmax_j((scale / n) <x~_i Q, x~_j K>) x~_j V of each head, x~ = x / rms(x).

    Cost: that of dot-product attention behind a normalization without a gain. No constraint is
    imposed here: a rule of `orthojax.orthogonal` keeps the kernels orthonormal in training.

    Args:
      x: tokens [T, n] or [B, T, n].
      query: [n, H, d]; for the bound, with orthonormal columns, d <= n, a matrix a head.
      key: likewise.
      value: [n, H, d].
      scale: the bound [] or [H]; n / sqrt(d) is the usual scale of normalized tokens.
      mask: what is seen where True, broadcast to [B, H, T, T].
      is_causal: whether a token sees none that come after it.

    Returns:
      [T, H, d] or [B, T, H, d] of x's dtype.

    Raises:
      ValueError: for shapes that do not fit.

    >>> import jax, jax.numpy as jnp
    >>> from orthojax.initializers import orthogonal
    >>> from orthojax.matrices import MatrixAxes
    >>> kernels = orthogonal(axes=MatrixAxes(0, 2))(jax.random.key(0), (8, 6, 4))  # Two heads each.
    >>> q, k, v = jnp.split(kernels, 3, axis=1)
    >>> x = 100 * jax.random.normal(jax.random.key(1), (5, 8))
    >>> bounded_attention(x, q, k, v, scale=3.0, is_causal=True).shape
    (5, 2, 4)
    >>> bool(jnp.abs(bounded_logits(x, q, k, scale=3.0)).max() <= 3)
    True
    """
    _check(x, value, value)
    tokens, q, k = _queries_and_keys(x, query, key, scale)
    v = _project(tokens, value)
    return jax.nn.dot_product_attention(q, k, v, mask=mask, scale=1.0, is_causal=is_causal)


def _check(x, query, key):
    if x.ndim not in (2, 3):
        raise ValueError(f"`x` are tokens [T, n] or [B, T, n], got shape {x.shape}.")
    for name, kernel in (("query", query), ("key", key)):
        if kernel.ndim != 3 or kernel.shape[0] != x.shape[-1]:
            raise ValueError(
                f"`{name}` must be [n, heads, size] with n={x.shape[-1]}, got {kernel.shape}."
            )
    if query.shape != key.shape:
        raise ValueError(
            f"`query` and `key` must have one shape, got {query.shape} and {key.shape}."
        )
