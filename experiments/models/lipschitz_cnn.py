"""Convolutional network that stretches no difference of images: 1-Lipschitz."""

import jax
from flax import nnx

from orthojax.convolutions import space_to_depth
from orthojax.initializers import orthogonal
from orthojax.isometric import max_min
from orthojax.nn.convolution import CONVOLUTIONS, ReshapedConv


class LipschitzCNN(nnx.Module):
    """Squares of 2x2 pixels as channels, stages of 3x3 convolutions with MaxMin, a 2x2 convolution
    of stride 2 between them, a dense layer, a linear head; all orthogonal, or their adjoints.

    Stage s has `depth` convolutions with `channels[s]` outputs, `conv_<i>`, counted from 0 through
    all stages, of the module `CONVOLUTIONS[method]`. Between stages `down_<s>/kernel` [2, 2, in,
    out], an orthogonal matrix; then `dense/kernel` and `head/kernel`, matrices with orthonormal
    columns. The constant 1 is that of the logits with respect to the input of the network, as long
    as the optimizer keeps orthonormal these matrices and those of `orthojax.nn.convolution.RULES`.

    Args:
      channels: even numbers.
      depth: convolutions a stage.
      width: of the dense layer, even.
      convolution: a name in `orthojax.nn.convolution.CONVOLUTIONS`.
    """

    def __init__(self, image_shape, num_classes, *, channels, depth, width, convolution, rngs):
        if any(size % 2 for size in (*channels, width)):
            raise ValueError(
                f"MaxMin pairs channels: `channels` and `width` are even, got {channels}, {width}."
            )
        shrink = 2 ** len(channels)
        if image_shape[0] % shrink or image_shape[1] % shrink:
            raise ValueError(
                f"{len(channels)} stages need images of multiples of {shrink} pixels, got "
                f"{image_shape[0]} x {image_shape[1]}; take fewer `channels`."
            )
        make = CONVOLUTIONS[convolution]
        self.stages, self.depth = len(channels), depth
        inputs = 4 * image_shape[-1]
        for stage, outputs in enumerate(channels):
            for i in range(depth):
                conv = make(inputs, outputs, 3, rngs=rngs)
                setattr(self, f"conv_{stage * depth + i}", conv)
                inputs = outputs
            if stage + 1 < self.stages:
                down = ReshapedConv(outputs, channels[stage + 1], 2, strides=2, rngs=rngs)
                setattr(self, f"down_{stage}", down)
                inputs = channels[stage + 1]
        positions = (image_shape[0] // shrink) * (image_shape[1] // shrink)
        init = orthogonal()
        self.dense = nnx.Linear(positions * inputs, width, kernel_init=init, rngs=rngs)
        self.head = nnx.Linear(width, num_classes, kernel_init=init, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        x = space_to_depth(images, 2)
        for stage in range(self.stages):
            for i in range(self.depth):
                x = max_min(getattr(self, f"conv_{stage * self.depth + i}")(x))
            if stage + 1 < self.stages:
                x = max_min(getattr(self, f"down_{stage}")(x))
        return self.head(max_min(self.dense(x.reshape(len(x), -1))))
