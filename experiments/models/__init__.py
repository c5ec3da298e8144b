"""Ordinary Flax NNX models, by name. Nothing here knows of orthogonality.

A model takes normalized images [B, H, W, C] float32 and returns logits [B, num_classes]. Its first
two arguments, `image_shape` (H, W, C) and `num_classes`, come from the data set, the others from
the `model` section of the configuration.
"""

import inspect

from flax import nnx

from experiments.models.cnn import CNN
from experiments.models.layers import ACTIVATIONS, KERNEL_INITS
from experiments.models.mlp import MLP

MODELS = {"mlp": MLP, "cnn": CNN}

# Options that are one of several names.
CHOICES = {"activation": ACTIVATIONS, "kernel_init": KERNEL_INITS}


def options(name: str) -> tuple[str, ...]:
    """Returns the names of what the `model` section of the configuration sets for model `name`."""
    arguments = inspect.signature(MODELS[name].__init__).parameters
    return tuple(a for a in arguments if a not in ("self", "image_shape", "num_classes", "rngs"))


def build(name, image_shape, num_classes, rngs, **options) -> nnx.Module:
    """Returns the model `name`, with parameters drawn from `rngs`."""
    return MODELS[name](tuple(image_shape), num_classes, **options, rngs=rngs)
