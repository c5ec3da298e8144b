"""Flax NNX self-attention with bounded logits."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from orthojax.attention import bounded_attention, bounded_logits
from orthojax.initializers import orthogonal


class BoundedAttention(nnx.Module):
    """x -> attention of x / rms(x), whose logits are at most `scale` while each head's `query` and
    `key` are orthonormal: `orthojax.attention`.

    Parameters: `query/kernel`, `key/kernel` and `value/kernel` [width, heads, size], `out/kernel`
    [heads, size, width], as in `nnx.MultiHeadAttention`, without biases, which would add to the
    bound; and `log_scale` [heads] unless `train_scale` is False. They start orthonormal as a whole,
    heads beside each other; rules keep them so or, as here, a matrix a head, which lets heads
    overlap and is enough for the bound:

    >>> import jax, optax, orthojax
    >>> from flax import nnx
    >>> rules = [
    ...     (r"(.*/)?(query|key|value)/kernel", orthojax.MatrixAxes(0, 2)),
    ...     (r"(.*/)?out/kernel", "orthogonal"),
    ...     (".*", "free"),
    ... ]
    >>> tx = orthojax.orthogonal(optax.adam(1e-3), rules=rules)
    >>> attention = BoundedAttention(8, heads=2, rngs=nnx.Rngs(0))
    >>> state = tx.init(nnx.state(attention, nnx.Param))
    >>> x = jax.random.normal(jax.random.key(0), (3, 5, 8))
    >>> attention(x).shape
    (3, 5, 8)
    >>> bool(abs(attention.logits(x)).max() <= attention.scale.max())
    True
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        scale: float | None = None,
        train_scale: bool = True,
        is_causal: bool = False,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """
        Args:
          width: n, features of a token.
          heads: they divide `width`; a head has d = width / heads features.
          scale: the bound at the start; by default n / sqrt(d), the usual scale of normalized
            tokens.
          train_scale: whether each head trains the logarithm of its bound, starting there.
          is_causal: whether a token sees none that come after it.
          param_dtype: of the parameters.
          rngs: stream `params`.

        Raises:
          ValueError: `heads` do not divide `width`, or `scale` is not positive.
        """
        if heads < 1 or width % heads:
            raise ValueError(f"`heads` must divide `width`={width}, got {heads}.")
        size = width // heads
        scale = width / math.sqrt(size) if scale is None else scale
        if not scale > 0:
            raise ValueError(f"`scale` must be positive, got {scale}.")
        self.heads, self.is_causal = heads, is_causal

        def linear(inputs, outputs, axis):
            return nnx.LinearGeneral(
                inputs,
                outputs,
                axis=axis,
                use_bias=False,
                kernel_init=orthogonal(),  # Of the kernel as [inputs, outputs].
                param_dtype=param_dtype,
                rngs=rngs,
            )

        for name in ("query", "key", "value"):
            setattr(self, name, linear(width, (heads, size), -1))
        self.out = linear((heads, size), width, (-2, -1))
        start = jnp.full(heads, math.log(scale), param_dtype)
        self.log_scale = nnx.Param(start) if train_scale else nnx.Variable(start)

    @property
    def scale(self) -> jax.Array:
        """The bounds [heads]."""
        return jnp.exp(self.log_scale[...])

    def logits(self, x: jax.Array) -> jax.Array:
        """The logits [..., heads, T, T] of the tokens x [..., T, width], none masked."""
        return bounded_logits(x, self.query.kernel[...], self.key.kernel[...], self.scale)

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """[..., T, width] of tokens x [T, width] or [B, T, width]; `mask` as of
        `orthojax.attention.bounded_attention`."""
        kernels = (getattr(self, name).kernel[...] for name in ("query", "key", "value"))
        mixed = bounded_attention(x, *kernels, self.scale, mask=mask, is_causal=self.is_causal)
        return self.out(mixed)
