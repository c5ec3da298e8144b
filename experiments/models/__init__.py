"""Ordinary Flax NNX models, by name. Nothing here knows of orthogonality.

A model takes the inputs of its task: normalized images [B, H, W, C] float32, of which it returns
logits [B, num_classes], or the windows of a series, of which it returns forecasts
[B, horizon, channels]. Its positional arguments, such as `image_shape` (H, W, C) and `num_classes`,
come from the data set; the keywords come from the `model` section of the configuration.
"""

import inspect

from flax import nnx

from experiments.models.autoformer import Autoformer
from experiments.models.cnn import CNN
from experiments.models.layers import ACTIVATIONS, KERNEL_INITS
from experiments.models.mlp import MLP
from experiments.models.vit import ViT

MODELS = {"mlp": MLP, "cnn": CNN, "vit": ViT, "autoformer": Autoformer}

# Options that are one of several names.
CHOICES = {"activation": ACTIVATIONS, "kernel_init": KERNEL_INITS}


def arguments(name: str) -> tuple[str, ...]:
    """Returns the names of what model `name` has to know of its data."""
    return _names(name, inspect.Parameter.POSITIONAL_OR_KEYWORD)[1:]  # But for `self`.


def options(name: str) -> tuple[str, ...]:
    """Returns the names of what the `model` section of the configuration sets for model `name`."""
    return tuple(a for a in _names(name, inspect.Parameter.KEYWORD_ONLY) if a != "rngs")


def _names(model, kind):
    parameters = inspect.signature(MODELS[model].__init__).parameters.values()
    return tuple(p.name for p in parameters if p.kind == kind)


def build(name, arguments, rngs, **options) -> nnx.Module:
    """Returns the model `name` for data of `arguments`, with parameters drawn from `rngs`."""
    return MODELS[name](**arguments, **options, rngs=rngs)
