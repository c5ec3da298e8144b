"""Multilayer perceptron."""

from flax import nnx

from experiments.models.layers import ACTIVATIONS, KERNEL_INITS


class MLP(nnx.Module):
    """Embedding, `depth` hidden layers of one width, and a linear head.

    The hidden kernels are square: `hidden_<i>/kernel` [width, width], i from 0. The first layer,
    `embed/kernel` [H * W * C, width], and `head/kernel` [width, num_classes] change the width.
    """

    def __init__(self, image_shape, num_classes, *, width, depth, activation, kernel_init, rngs):
        height, image_width, channels = image_shape
        hidden_init = KERNEL_INITS[kernel_init]
        self.depth = depth
        self.activation = ACTIVATIONS[activation]
        self.embed = nnx.Linear(height * image_width * channels, width, rngs=rngs)
        for i in range(depth):
            layer = nnx.Linear(width, width, kernel_init=hidden_init, rngs=rngs)
            setattr(self, f"hidden_{i}", layer)
        self.head = nnx.Linear(width, num_classes, rngs=rngs)

    def __call__(self, images):
        x = self.activation(self.embed(images.reshape(images.shape[0], -1)))
        for i in range(self.depth):
            x = self.activation(getattr(self, f"hidden_{i}")(x))
        return self.head(x)
