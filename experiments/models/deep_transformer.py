"""Vision transformer of any depth, after Dosovitskiy et al. 2021 (arXiv:2010.11929)."""

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.models.layers import KERNEL_INITS, patch_embedding
from orthojax.nn.stack import Stack

# Where a block normalizes: what enters its branches, as Dosovitskiy et al., or their sum, as
# Vaswani et al. 2017 (arXiv:1706.03762).
PLACEMENTS = ("pre", "post")


class Block(nnx.Module):
    """x + α attention(norm(x)), then x + β MLP(norm(x)), with trained scalars α, β `multipliers`;
    "post": norm(x + α attention(x)), then norm(x + β MLP(x)).

    Queries, keys and values have a kernel each, so that each can be orthogonal.
    """

    def __init__(self, width, heads, hidden, init, multiplier, placement, rngs):
        self.heads, self.is_post = heads, placement == "post"
        self.attention_norm = nnx.LayerNorm(width, rngs=rngs)
        for name in ("query", "key", "value", "out"):
            setattr(self, name, nnx.Linear(width, width, kernel_init=init, rngs=rngs))
        self.mlp_norm = nnx.LayerNorm(width, rngs=rngs)
        self.mlp_in = nnx.Linear(width, hidden, kernel_init=init, rngs=rngs)
        self.mlp_out = nnx.Linear(hidden, width, kernel_init=init, rngs=rngs)
        self.multipliers = nnx.Param(jnp.full(2, multiplier, jnp.float32))

    def attention(self, x):
        def split(x):  # [B, L, heads * size] -> [B, L, heads, size]
            return x.reshape(*x.shape[:-1], self.heads, -1)

        projected = (split(layer(x)) for layer in (self.query, self.key, self.value))
        return self.out(jax.nn.dot_product_attention(*projected).reshape(x.shape))

    def mlp(self, x):
        return self.mlp_out(jax.nn.gelu(self.mlp_in(x), approximate=False))

    def __call__(self, x):
        alpha, beta = self.multipliers[...]
        if self.is_post:
            x = self.attention_norm(x + alpha * self.attention(x))
            return self.mlp_norm(x + beta * self.mlp(x))
        x = x + alpha * self.attention(self.attention_norm(x))
        return x + beta * self.mlp(self.mlp_norm(x))


class DeepTransformer(nnx.Module):
    """Patches of an image as tokens, `depth` blocks, and a head on the mean of the tokens.

    `patch_embed/kernel` [patch, patch, C, width]; the learned `positions` [1, patches, width]; in
    `hidden/layers`, each with a first axis [depth, ...], the kernels of `query`, `key`, `value` and
    `out` [width, width], `mlp_in` [width, hidden] and `mlp_out` [hidden, width], and `multipliers`
    [2]; `norm`; `head/kernel` [width, num_classes].

    Args:
        patch: side of a patch, in pixels.
        width: features of a token.
        depth: number of blocks.
        heads: of the attention; they divide `width`.
        hidden: width of the MLP.
        kernel_init: of the kernels in the blocks, one of `KERNEL_INITS`.
        multiplier: what branches are multiplied by at the start: 1; 0 for ReZero (Bachlechner et
            al. 2020, arXiv:2003.04887), here with normalization; or in between.
        placement: where a block normalizes, one of `PLACEMENTS`.
        remat: what is computed again for gradients, which saves memory; as of `Stack`.

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
        kernel_init,
        multiplier,
        placement,
        remat,
        rngs,
    ):
        if width % heads:
            raise ValueError(f"`heads` must divide `width`={width}, got {heads}.")
        init = KERNEL_INITS[kernel_init]
        self.patch_embed, tokens = patch_embedding(image_shape, patch, width, rngs)
        normal = nnx.initializers.normal(0.02)
        self.positions = nnx.Param(normal(rngs.params(), (1, tokens, width)))
        self.hidden = Stack(
            lambda rngs: Block(width, heads, hidden, init, multiplier, placement, rngs),
            depth,
            rngs=rngs,
            remat=remat,
        )
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, num_classes, rngs=rngs)

    def __call__(self, images):
        x = self.patch_embed(images)
        x = x.reshape(x.shape[0], -1, x.shape[-1]) + self.positions[...]
        return self.head(self.norm(self.hidden(x)).mean(axis=1))
