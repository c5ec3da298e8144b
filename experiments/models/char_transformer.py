"""Decoder that foretells characters, of pre-norm blocks as GPT-2 (Radford et al. 2019)."""

import jax
import jax.numpy as jnp
from flax import nnx

from orthojax.nn.attention import BoundedAttention

# "dot": Flax's attention; "normalized": the same with a LayerNorm of each head's queries and keys
# (Dehghani et al. 2023, arXiv:2302.05442); "bounded": `BoundedAttention`. Of each, the kernels of
# query, key and value are [width, heads, size], that of out [heads, size, width].
ATTENTIONS = ("dot", "normalized", "bounded")


def make_attention(kind, width, heads, rngs):
    """Returns (tokens [B, T, width], mask) -> [B, T, width], one of `ATTENTIONS`, no biases."""
    if kind == "bounded":
        return BoundedAttention(width, heads, rngs=rngs)
    return nnx.MultiHeadAttention(
        heads, width, use_bias=False, normalize_qk=kind == "normalized", decode=False, rngs=rngs
    )


class Block(nnx.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)); "bounded" attention normalizes by itself."""

    def __init__(self, width, heads, hidden, attention, dropout, rngs):
        self.bounded = attention == "bounded"
        self.attention_norm = None if self.bounded else nnx.LayerNorm(width, rngs=rngs)
        self.attention = make_attention(attention, width, heads, rngs)
        self.mlp_norm = nnx.LayerNorm(width, rngs=rngs)
        self.mlp_in = nnx.Linear(width, hidden, rngs=rngs)
        self.mlp_out = nnx.Linear(hidden, width, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, x, mask):
        y = x if self.bounded else self.attention_norm(x)
        x = x + self.dropout(self.attention(y, mask=mask))
        hidden = jax.nn.gelu(self.mlp_in(self.mlp_norm(x)), approximate=False)
        return x + self.dropout(self.mlp_out(hidden))


class CharTransformer(nnx.Module):
    """Characters [B, T], T <= `length`, to logits [B, T, vocabulary] of the one after each.

    `embed/embedding` [vocabulary, width] and the learned `positions` [length, width]; in
    `block_<i>`, from 0, the kernels of `attention/query`, `key` and `value` [width, heads, size]
    and `attention/out` [heads, size, width], `mlp_in` [width, hidden], `mlp_out` [hidden, width];
    `norm`; `head/kernel` [width, vocabulary]. A character sees those before it and itself.

    Raises:
        ValueError: `heads` does not divide `width`.
    """

    def __init__(
        self, vocabulary, length, *, width, depth, heads, hidden, attention, dropout, rngs
    ):
        if width % heads:
            raise ValueError(f"`heads` must divide `width`={width}, got {heads}.")
        normal = nnx.initializers.normal(0.02)
        self.depth = depth
        self.embed = nnx.Embed(vocabulary, width, embedding_init=normal, rngs=rngs)
        self.positions = nnx.Param(normal(rngs.params(), (length, width)))
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        for i in range(depth):
            block = Block(width, heads, hidden, attention, dropout, rngs)
            setattr(self, f"block_{i}", block)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, vocabulary, rngs=rngs)

    def __call__(self, characters):
        x = self.dropout(self.embed(characters) + self.positions[: characters.shape[-1]])
        mask = jnp.tril(jnp.ones((x.shape[-2], x.shape[-2]), bool))
        for i in range(self.depth):
            x = getattr(self, f"block_{i}")(x, mask)
        return self.head(self.norm(x))
