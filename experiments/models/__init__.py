"""Flax NNX models, by name. Ordinary ones, which know nothing of orthogonality; `deep_*`, of any
depth, made for the study of what a network starts from; and `lipschitz_cnn`, all orthogonal.

A model takes the inputs of its task: normalized images [B, H, W, C] float32, of which it returns
logits [B, num_classes], or the windows of a series, of which it returns forecasts
[B, horizon, channels]. Its positional arguments, such as `image_shape` (H, W, C) and `num_classes`,
come from the data set; the keywords come from the `model` section of the configuration.
"""

import inspect

from flax import nnx

from experiments.models.autoformer import Autoformer
from experiments.models.char_transformer import ATTENTIONS, CharTransformer
from experiments.models.cnn import CNN
from experiments.models.convnext import ConvNeXt
from experiments.models.deep_blocks import BLOCKS, SHARINGS, DeepBlocks
from experiments.models.deep_cnn import WEIGHTS, DeepCNN
from experiments.models.deep_mlp import DeepMLP
from experiments.models.deep_transformer import PLACEMENTS, DeepTransformer
from experiments.models.layers import ACTIVATIONS, ENDS_INITS, KERNEL_INITS, NORMS, SHAPINGS
from experiments.models.lipschitz_cnn import LipschitzCNN
from experiments.models.lstm import RowLSTM, TokenLSTM
from experiments.models.mixer import Mixer
from experiments.models.mlp import MLP
from experiments.models.resnet import STEMS, ImageNetResNet, ResNet
from experiments.models.rnn import CELLS, STARTS, PixelRNN, TokenRNN
from experiments.models.vae import POSTERIORS, VAE
from experiments.models.vit import ViT
from orthojax.nn.convolution import CONVOLUTIONS
from orthojax.nn.stack import REMATS

MODELS = {
    "mlp": MLP,
    "cnn": CNN,
    "vit": ViT,
    "resnet": ResNet,
    "imagenet_resnet": ImageNetResNet,
    "convnext": ConvNeXt,
    "mixer": Mixer,
    "lipschitz_cnn": LipschitzCNN,
    "autoformer": Autoformer,
    "token_rnn": TokenRNN,
    "pixel_rnn": PixelRNN,
    "token_lstm": TokenLSTM,
    "row_lstm": RowLSTM,
    "char_transformer": CharTransformer,
    "vae": VAE,
    "deep_mlp": DeepMLP,
    "deep_blocks": DeepBlocks,
    "deep_cnn": DeepCNN,
    "deep_transformer": DeepTransformer,
}

# Options that are one of several names.
CHOICES = {
    "activation": ACTIVATIONS,
    "kernel_init": KERNEL_INITS,
    "ends_init": ENDS_INITS,
    "norm": NORMS,
    "shaping": SHAPINGS,
    "block": BLOCKS,
    "sharing": SHARINGS,
    "weights": WEIGHTS,
    "remat": REMATS,
    "posterior": POSTERIORS,
    "convolution": CONVOLUTIONS,
    "cell": CELLS,
    "start": STARTS,
    "attention": ATTENTIONS,
    "placement": PLACEMENTS,
    "stem": STEMS,
}


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
    """Returns the model `name`, made from those of the data's `arguments` that it needs, with
    parameters drawn from `rngs`."""
    needed = {a: arguments[a] for a in _names(name, inspect.Parameter.POSITIONAL_OR_KEYWORD)[1:]}
    return MODELS[name](**needed, **options, rngs=rngs)
