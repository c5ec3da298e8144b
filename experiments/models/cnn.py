"""Convolutional network without normalization layers."""

from flax import nnx

from experiments.models.layers import ACTIVATIONS, KERNEL_INITS


class CNN(nnx.Module):
    """Stages of 3x3 convolutions with 2x2 average pooling after each, a dense layer, a linear head.

    Stage s has `depth` convolutions with `channels[s]` outputs: `conv_<i>/kernel` [3, 3, in, out],
    counted from 0 through all stages. What S stages leave, `positions` = (H // 2^S) * (W // 2^S),
    goes through `dense/kernel` [positions * channels[-1], width] to `head/kernel` [width,
    num_classes].
    """

    def __init__(
        self,
        image_shape,
        num_classes,
        *,
        channels,
        depth,
        width,
        activation,
        kernel_init,
        rngs,
    ):
        init = KERNEL_INITS[kernel_init]
        self.stages, self.depth = len(channels), depth
        self.activation = ACTIVATIONS[activation]
        inputs = image_shape[-1]
        for i in range(self.stages * depth):
            outputs = channels[i // depth]
            layer = nnx.Conv(inputs, outputs, (3, 3), kernel_init=init, rngs=rngs)
            setattr(self, f"conv_{i}", layer)
            inputs = outputs
        height, image_width = (size // 2**self.stages for size in image_shape[:2])
        self.dense = nnx.Linear(height * image_width * inputs, width, kernel_init=init, rngs=rngs)
        self.head = nnx.Linear(width, num_classes, rngs=rngs)

    def __call__(self, images):
        x = images
        for i in range(self.stages * self.depth):
            x = self.activation(getattr(self, f"conv_{i}")(x))
            if (i + 1) % self.depth == 0:
                x = nnx.avg_pool(x, (2, 2), strides=(2, 2))
        x = self.activation(self.dense(x.reshape(x.shape[0], -1)))
        return self.head(x)
