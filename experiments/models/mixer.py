"""MLP-Mixer (Tolstikhin et al. 2021, arXiv:2105.01601)."""

import jax
import numpy as np
from flax import nnx

from experiments.models.layers import drop_path, patch_embedding


class Block(nnx.Module):
    """x + MLP over tokens (norm(x)), then x + MLP over features (norm(x)), of x [B, L, width]."""

    def __init__(self, tokens, width, token_hidden, hidden, dropout, drop_rate, rngs):
        self.token_norm = nnx.LayerNorm(width, rngs=rngs)
        self.token_in = nnx.Linear(tokens, token_hidden, rngs=rngs)
        self.token_out = nnx.Linear(token_hidden, tokens, rngs=rngs)
        self.mlp_norm = nnx.LayerNorm(width, rngs=rngs)
        self.mlp_in = nnx.Linear(width, hidden, rngs=rngs)
        self.mlp_out = nnx.Linear(hidden, width, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.drop_path = drop_path(drop_rate, 3, rngs)

    def mlp(self, x, inner, outer):
        return self.dropout(outer(self.dropout(jax.nn.gelu(inner(x), approximate=False))))

    def __call__(self, x):
        mixed = self.mlp(self.token_norm(x).mT, self.token_in, self.token_out).mT
        x = x + self.drop_path(mixed)
        return x + self.drop_path(self.mlp(self.mlp_norm(x), self.mlp_in, self.mlp_out))


class Mixer(nnx.Module):
    """Patches of an image as tokens, `depth` blocks, and a head on the mean of the tokens.

    `patch_embed/kernel` [patch, patch, C, width]; in `block_<i>`, from 0, the kernels of `token_in`
    [patches, token_hidden] and `token_out` [token_hidden, patches], which all features share,
    `mlp_in` [width, hidden] and `mlp_out` [hidden, width]; `norm`; `head/kernel`
    [width, num_classes].

                  patch  width  depth  token_hidden  hidden
        Mixer-S/16   16    512      8           256    2048
        Mixer-B/16   16    768     12           384    3072

    Args:
        patch: side of a patch, in pixels.
        width: features of a token.
        depth: number of blocks.
        token_hidden: width of the MLP over tokens.
        hidden: width of the MLP over features.
        dropout: after both layers of each MLP. Published: 0.
        drop_path: rate in the last block; rates grow linearly from 0 in the first one. Published:
            0.1 on ImageNet alone.

    Raises:
        ValueError: `patch` does not divide the image.
    """

    def __init__(
        self,
        image_shape,
        num_classes,
        *,
        patch,
        width,
        depth,
        token_hidden,
        hidden,
        dropout,
        drop_path,
        rngs,
    ):
        self.depth = depth
        self.patch_embed, tokens = patch_embedding(image_shape, patch, width, rngs)
        for i, rate in enumerate(np.linspace(0, drop_path, depth).tolist()):
            block = Block(tokens, width, token_hidden, hidden, dropout, rate, rngs)
            setattr(self, f"block_{i}", block)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, num_classes, rngs=rngs)

    def __call__(self, images):
        x = self.patch_embed(images)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        for i in range(self.depth):
            x = getattr(self, f"block_{i}")(x)
        return self.head(self.norm(x).mean(axis=1))
