"""ConvNeXt (Liu, Mao, Wu, Feichtenhofer, Darrell, Xie 2022, arXiv:2201.03545)."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.models.layers import drop_path

# The published one is cut off at 100 standard deviations.
_INIT = nnx.initializers.normal(0.02)


def _conv(inputs, outputs, window, strides, rngs, **options):
    return nnx.Conv(
        inputs, outputs, (window, window), strides=strides, kernel_init=_INIT, rngs=rngs, **options
    )


class Block(nnx.Module):
    """x + `layer_scale` * MLP(norm(conv(x))), with a 7x7 `conv` of each channel by itself and an
    MLP of 4 times the channels."""

    def __init__(self, channels, layer_scale, drop_rate, rngs):
        linear = {"kernel_init": _INIT, "rngs": rngs}
        self.conv = _conv(channels, channels, 7, 1, rngs, feature_group_count=channels)
        self.norm = nnx.LayerNorm(channels, rngs=rngs)
        self.mlp_in = nnx.Linear(channels, 4 * channels, **linear)
        self.mlp_out = nnx.Linear(4 * channels, channels, **linear)
        self.layer_scale = nnx.Param(jnp.full(channels, layer_scale, jnp.float32))
        self.drop_path = drop_path(drop_rate, 4, rngs)

    def __call__(self, x):
        hidden = jax.nn.gelu(self.mlp_in(self.norm(self.conv(x))), approximate=False)
        return x + self.drop_path(self.layer_scale[...] * self.mlp_out(hidden))


class ConvNeXt(nnx.Module):
    """Patches by `stem` and `stem_norm`, stages of blocks, the mean over positions, `norm`, `head`.

    In `block_<i>`, from 0 through all stages, the kernels of `conv` [7, 7, 1, C], `mlp_in`
    [C, 4 C] and `mlp_out` [4 C, C]; before each stage s > 0 `down_norm_<s>` and the convolution
    `down_<s>`, 2x2 of stride 2.

                    channels              depths         drop_path
        ConvNeXt-T  (96, 192, 384, 768)   (3, 3, 9, 3)   0.1
        ConvNeXt-S  (96, 192, 384, 768)   (3, 3, 27, 3)  0.4
        ConvNeXt-B  (128, 256, 512, 1024) (3, 3, 27, 3)  0.5

    Args:
        channels: of each stage.
        depths: blocks of each stage.
        patch: side of a patch, in pixels. Published: 4.
        layer_scale: what branches are multiplied by at the start. Published: 1e-6.
        drop_path: rate in the last block; rates grow linearly from 0 in the first one.

    Raises:
        ValueError: there are not as many depths as stages, or the patch or the strides do not
            divide the image.
    """

    def __init__(
        self, image_shape, num_classes, *, channels, depths, patch, layer_scale, drop_path, rngs
    ):
        if len(channels) != len(depths):
            raise ValueError(f"`depths` {depths} needs a number for each of `channels` {channels}.")
        height, width, colours = image_shape
        shrink = patch * 2 ** (len(channels) - 1)
        if height % shrink or width % shrink:
            raise ValueError(
                f"`patch` {patch} and {len(channels)} stages need images of multiples of {shrink} "
                f"pixels, got {height} x {width}."
            )
        self.depths = tuple(depths)
        self.stem = _conv(colours, channels[0], patch, patch, rngs, padding="VALID")
        self.stem_norm = nnx.LayerNorm(channels[0], rngs=rngs)
        rates = iter(np.linspace(0, drop_path, sum(depths)).tolist())
        count = 0
        for s, (features, depth) in enumerate(zip(channels, depths, strict=True)):
            if s:
                setattr(self, f"down_norm_{s}", nnx.LayerNorm(channels[s - 1], rngs=rngs))
                down = _conv(channels[s - 1], features, 2, 2, rngs, padding="VALID")
                setattr(self, f"down_{s}", down)
            for _ in range(depth):
                setattr(self, f"block_{count}", Block(features, layer_scale, next(rates), rngs))
                count += 1
        self.norm = nnx.LayerNorm(channels[-1], rngs=rngs)
        self.head = nnx.Linear(channels[-1], num_classes, kernel_init=_INIT, rngs=rngs)

    def __call__(self, images):
        x, count = self.stem_norm(self.stem(images)), 0
        for s, depth in enumerate(self.depths):
            if s:
                x = getattr(self, f"down_{s}")(getattr(self, f"down_norm_{s}")(x))
            for _ in range(depth):
                x = getattr(self, f"block_{count}")(x)
                count += 1
        return self.head(self.norm(x.mean(axis=(1, 2))))
