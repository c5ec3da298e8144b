"""Vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929)."""

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.models.layers import patch_embedding


class Attention(nnx.Module):
    """Self-attention of x [B, L, width].

    One kernel `qkv` [width, 3 * width] for queries, keys and values of all `heads`, in this order,
    with a bias if `qkv_bias`; `out` [width, width] has one.
    """

    def __init__(self, width, heads, qkv_bias, dropout, rngs):
        self.heads = heads
        self.qkv = nnx.Linear(width, 3 * width, use_bias=qkv_bias, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, x):
        def split(x):  # [B, L, heads * size] -> [B, L, heads, size]
            return x.reshape(*x.shape[:-1], self.heads, -1)

        mixed = jax.nn.dot_product_attention(*map(split, jnp.split(self.qkv(x), 3, axis=-1)))
        return self.dropout(self.out(mixed.reshape(x.shape)))


class Block(nnx.Module):
    """x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, width, heads, hidden, qkv_bias, dropout, rngs):
        self.attention_norm = nnx.LayerNorm(width, rngs=rngs)
        self.attention = Attention(width, heads, qkv_bias, dropout, rngs)
        self.mlp_norm = nnx.LayerNorm(width, rngs=rngs)
        self.mlp_in = nnx.Linear(width, hidden, rngs=rngs)
        self.mlp_out = nnx.Linear(hidden, width, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.attention_norm(x))
        hidden = self.dropout(jax.nn.gelu(self.mlp_in(self.mlp_norm(x)), approximate=False))
        return x + self.dropout(self.mlp_out(hidden))


class ViT(nnx.Module):
    """Patches of an image as tokens, behind a class token that is read after `depth` blocks.

    `patch_embed/kernel` [patch, patch, C, width]; the learned `class_token` [1, 1, width] and
    `positions` [1, 1 + patches, width]; in `block_<i>`, from 0, the kernels of `attention/qkv`
    [width, 3 * width], `attention/out` [width, width], `mlp_in` [width, hidden] and `mlp_out`
    [hidden, width]; `norm`; `head/kernel` [width, num_classes]. Dropout is after the positions, the
    attention and both layers of the MLP.

    Raises:
        ValueError: `patch` does not divide the image, or `heads` the width.
    """

    def __init__(
        self,
        image_shape,
        num_classes,
        *,
        patch,
        width,
        depth,
        heads,
        hidden,
        qkv_bias,
        dropout,
        rngs,
    ):
        if width % heads:
            raise ValueError(f"`heads` must divide `width`={width}, got {heads}.")
        self.depth = depth
        self.patch_embed, patches = patch_embedding(image_shape, patch, width, rngs)
        normal = nnx.initializers.normal(0.02)
        self.class_token = nnx.Param(normal(rngs.params(), (1, 1, width)))
        self.positions = nnx.Param(normal(rngs.params(), (1, 1 + patches, width)))
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        for i in range(depth):
            setattr(self, f"block_{i}", Block(width, heads, hidden, qkv_bias, dropout, rngs))
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, num_classes, rngs=rngs)

    def __call__(self, images):
        x = self.patch_embed(images)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        first = jnp.broadcast_to(self.class_token[...], (x.shape[0], 1, x.shape[-1]))
        x = self.dropout(jnp.concatenate([first, x], axis=1) + self.positions[...])
        for i in range(self.depth):
            x = getattr(self, f"block_{i}")(x)
        return self.head(self.norm(x[:, 0]))
