"""ResNets with batch normalization (He, Zhang, Ren, Sun 2016, arXiv:1512.03385): small images,
ImageNet, and ResNet-RS (Bello et al. 2021, arXiv:2103.07579)."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.models.layers import drop_path
from orthojax.nn.normalization import BatchNorm

_INIT = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")

# {name: ((window, strides, part of the channels of the first stage) of each convolution, whether
# a maximum over 3x3 of stride 2 follows)}: of He et al.; for 32x32 images; of ResNet-RS, which is
# that of ResNet-D (He et al. 2018, arXiv:1812.01187) with a convolution for the maximum.
STEMS = {
    "7x7": (((7, 2, 1.0),), True),
    "3x3": (((3, 1, 1.0),), False),
    "deep": (((3, 2, 0.5), (3, 1, 0.5), (3, 1, 1.0), (3, 2, 1.0)), False),
}


def _conv(inputs, outputs, window, strides, padding, rngs):
    return nnx.Conv(
        inputs,
        outputs,
        (window, window),
        strides=strides,
        padding=padding,
        use_bias=False,
        kernel_init=_INIT,
        rngs=rngs,
    )


class Squeeze(nnx.Module):
    """Channels of x [B, H, W, C] times sigmoid(expand(relu(reduce(mean over positions)))): the
    squeeze-and-excitation of Hu, Shen, Sun 2018, arXiv:1709.01507."""

    def __init__(self, channels, hidden, *, rngs):
        self.reduce = nnx.Linear(channels, hidden, rngs=rngs)
        self.expand = nnx.Linear(hidden, channels, rngs=rngs)

    def __call__(self, x):
        scale = nnx.sigmoid(self.expand(nnx.relu(self.reduce(x.mean(axis=(1, 2))))))
        return x * scale[:, None, None]


class Block(nnx.Module):
    """relu(branch(x) + shortcut(x)), the branch norm(conv(relu(norm(conv(x))))).

    Convolutions `conv_<i>` with `norm_<i>`: two of 3x3, or, if `bottleneck`, 1x1, 3x3 and 1x1, the
    last with 4 times the channels. The first 3x3 has the strides. Where the shape changes a 1x1
    convolution `shortcut` with `shortcut_norm`, behind the mean of each 2x2 positions instead of
    strides if `pool_shortcut` (ResNet-D). With `squeeze` > 0 the branch ends in a `Squeeze` to that
    part of its channels. The last normalization starts with the scale `branch_scale`.
    """

    def __init__(
        self,
        inputs,
        channels,
        strides,
        *,
        padding,
        bottleneck=False,
        pool_shortcut=False,
        squeeze=0.0,
        branch_scale=1.0,
        drop_rate=0.0,
        rngs,
    ):
        windows = (1, 3, 1) if bottleneck else (3, 3)
        self.outputs = outputs = 4 * channels if bottleneck else channels
        strided, self.convolutions, before = windows.index(3), len(windows), inputs
        for i, window in enumerate(windows):
            after = outputs if i + 1 == len(windows) else channels
            step, pad = strides if i == strided else 1, padding(window)
            setattr(self, f"conv_{i}", _conv(before, after, window, step, pad, rngs))
            setattr(self, f"norm_{i}", BatchNorm(after, rngs=rngs))
            before = after
        scale = jnp.full(outputs, branch_scale, jnp.float32)
        getattr(self, f"norm_{len(windows) - 1}").scale = nnx.Param(scale)
        same = strides == 1 and inputs == outputs
        self.pool = strides if pool_shortcut else 1
        step = 1 if pool_shortcut else strides
        self.shortcut = None if same else _conv(inputs, outputs, 1, step, padding(1), rngs)
        self.shortcut_norm = None if same else BatchNorm(outputs, rngs=rngs)
        self.squeeze = Squeeze(outputs, int(squeeze * outputs), rngs=rngs) if squeeze else None
        self.drop_path = drop_path(drop_rate, 4, rngs)

    def __call__(self, x):
        y = self.norm_0(self.conv_0(x))
        for i in range(1, self.convolutions):
            y = getattr(self, f"norm_{i}")(getattr(self, f"conv_{i}")(nnx.relu(y)))
        if self.squeeze is not None:
            y = self.squeeze(y)
        if self.pool > 1:
            window = (self.pool, self.pool)
            # Of an odd number of positions the last stand alone.
            x = nnx.avg_pool(x, window, strides=window, padding="SAME", count_include_pad=False)
        if self.shortcut is not None:
            x = self.shortcut_norm(self.shortcut(x))
        return nnx.relu(x + self.drop_path(y))


class ResNet(nnx.Module):
    """A convolution `stem`, stages of basic blocks `block_<i>`, the mean over positions, `head`.

    ResNet-18 for 32x32 images: channels (64, 128, 256, 512), depth 2. All but the first stage begin
    with strides of 2.

    Args:
        channels: of each stage.
        depth: blocks a stage.
    """

    def __init__(self, image_shape, num_classes, *, channels, depth, rngs):
        same = lambda window: "SAME"
        self.stem = _conv(image_shape[-1], channels[0], 3, 1, "SAME", rngs)
        self.stem_norm = BatchNorm(channels[0], rngs=rngs)
        self.blocks, inputs = len(channels) * depth, channels[0]
        for i in range(self.blocks):
            outputs, strides = channels[i // depth], 2 if i and i % depth == 0 else 1
            setattr(self, f"block_{i}", Block(inputs, outputs, strides, padding=same, rngs=rngs))
            inputs = outputs
        self.head = nnx.Linear(inputs, num_classes, rngs=rngs)

    def __call__(self, images):
        x = nnx.relu(self.stem_norm(self.stem(images)))
        for i in range(self.blocks):
            x = getattr(self, f"block_{i}")(x)
        return self.head(x.mean(axis=(1, 2)))


class ImageNetResNet(nnx.Module):
    """Convolutions `stem_<i>` with `stem_norm_<i>`, stages of blocks `block_<i>`, counted through
    all stages, the mean over positions, `head`.

    The values of PyTorch's models where weights are equal: convolutions pad each side by half of
    their window, and of a bottleneck the 3x3 one has the strides, not the first ("version 1.5").
    Published, with channels (64, 128, 256, 512):

                         depths         bottleneck  stem    pool_shortcut  squeeze
        ResNet-18        (2, 2, 2, 2)   False       "7x7"   False          0.0
        ResNet-50        (3, 4, 6, 3)   True        "7x7"   False          0.0
        ResNet-RS 101    (3, 4, 23, 3)  True        "deep"  True           0.25

    Args:
        channels: of each stage, before a bottleneck makes 4 times as many of them.
        depths: blocks of each stage; all but the first stage begin with strides of 2.
        bottleneck: whether blocks are bottlenecks, else basic ones.
        stem: one of `STEMS`.
        pool_shortcut: whether shortcuts take means instead of strides, as in ResNet-D.
        squeeze: hidden part of the channels in the squeeze-and-excitation of blocks, 0 for none.
        branch_scale: of the last normalization of each branch at the start: 1, or 0, for blocks
            that begin as the identity (Goyal et al. 2017, arXiv:1706.02677).
        drop_path: rate in the last block; rates grow linearly from 0 in the first one.
        dropout: before the head. Of ResNet-RS 101 0.25.

    Raises:
        ValueError: there are not as many depths as stages.
    """

    def __init__(
        self,
        image_shape,
        num_classes,
        *,
        channels,
        depths,
        bottleneck,
        stem,
        pool_shortcut,
        squeeze,
        branch_scale,
        drop_path,
        dropout,
        rngs,
    ):
        if len(channels) != len(depths):
            raise ValueError(f"`depths` {depths} needs a number for each of `channels` {channels}.")
        half = lambda window: window // 2
        inputs, (convolutions, self.max_pool) = image_shape[-1], STEMS[stem]
        self.convolutions = len(convolutions)
        for i, (window, strides, part) in enumerate(convolutions):
            outputs = int(part * channels[0])
            conv = _conv(inputs, outputs, window, strides, half(window), rngs)
            setattr(self, f"stem_{i}", conv)
            setattr(self, f"stem_norm_{i}", BatchNorm(outputs, rngs=rngs))
            inputs = outputs
        stages = [stage for stage, depth in enumerate(depths) for _ in range(depth)]
        self.blocks = len(stages)
        for i, rate in enumerate(np.linspace(0, drop_path, len(stages)).tolist()):
            block = Block(
                inputs,
                channels[stages[i]],
                2 if i and stages[i] != stages[i - 1] else 1,
                padding=half,
                bottleneck=bottleneck,
                pool_shortcut=pool_shortcut,
                squeeze=squeeze,
                branch_scale=branch_scale,
                drop_rate=rate,
                rngs=rngs,
            )
            setattr(self, f"block_{i}", block)
            inputs = block.outputs
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.head = nnx.Linear(inputs, num_classes, rngs=rngs)

    def __call__(self, images):
        x = images
        for i in range(self.convolutions):
            x = nnx.relu(getattr(self, f"stem_norm_{i}")(getattr(self, f"stem_{i}")(x)))
        if self.max_pool:
            x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for i in range(self.blocks):
            x = getattr(self, f"block_{i}")(x)
        return self.head(self.dropout(x.mean(axis=(1, 2))))
