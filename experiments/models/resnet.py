"""ResNet with batch normalization (He, Zhang, Ren, Sun 2016, arXiv:1512.03385), small images."""

from flax import nnx

from orthojax.nn.normalization import BatchNorm

_INIT = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


def _conv(inputs, outputs, window, strides, rngs):
    return nnx.Conv(
        inputs, outputs, window, strides=strides, use_bias=False, kernel_init=_INIT, rngs=rngs
    )


class BasicBlock(nnx.Module):
    """relu(norm(conv(relu(norm(conv(x))))) + shortcut(x)): `conv_0`, `conv_1`, and where the shape
    changes a 1x1 convolution `shortcut` with `shortcut_norm`."""

    def __init__(self, inputs, outputs, strides, *, rngs):
        self.conv_0 = _conv(inputs, outputs, (3, 3), strides, rngs)
        self.norm_0 = BatchNorm(outputs, rngs=rngs)
        self.conv_1 = _conv(outputs, outputs, (3, 3), 1, rngs)
        self.norm_1 = BatchNorm(outputs, rngs=rngs)
        same = strides == 1 and inputs == outputs
        self.shortcut = None if same else _conv(inputs, outputs, (1, 1), strides, rngs)
        self.shortcut_norm = None if same else BatchNorm(outputs, rngs=rngs)

    def __call__(self, x):
        y = nnx.relu(self.norm_0(self.conv_0(x)))
        y = self.norm_1(self.conv_1(y))
        if self.shortcut is not None:
            x = self.shortcut_norm(self.shortcut(x))
        return nnx.relu(x + y)


class ResNet(nnx.Module):
    """A convolution `stem`, stages of basic blocks `block_<i>`, the mean over positions, `head`.

    ResNet-18 for 32x32 images: channels (64, 128, 256, 512), depth 2. All but the first stage begin
    with strides of 2.

    Args:
        channels: of each stage.
        depth: blocks a stage.
    """

    def __init__(self, image_shape, num_classes, *, channels, depth, rngs):
        self.stem = _conv(image_shape[-1], channels[0], (3, 3), 1, rngs)
        self.stem_norm = BatchNorm(channels[0], rngs=rngs)
        self.blocks, inputs = len(channels) * depth, channels[0]
        for i in range(self.blocks):
            outputs, strides = channels[i // depth], 2 if i and i % depth == 0 else 1
            setattr(self, f"block_{i}", BasicBlock(inputs, outputs, strides, rngs=rngs))
            inputs = outputs
        self.head = nnx.Linear(inputs, num_classes, rngs=rngs)

    def __call__(self, images):
        x = nnx.relu(self.stem_norm(self.stem(images)))
        for i in range(self.blocks):
            x = getattr(self, f"block_{i}")(x)
        return self.head(x.mean(axis=(1, 2)))
