"""What a model is trained for: losses and measures, each a number an example."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from orthojax import lipschitz


class Task(NamedTuple):
    """Pure functions of batches; `outputs` are those of the model."""

    preprocess: Callable[[Any], Any]  # inputs of a batch -> inputs of the model
    loss: Callable  # (outputs, targets) -> [B], of which training minimizes the mean
    measures: dict[str, Callable]  # {"loss": (outputs, targets) -> [B], ...}, for evaluation


# How the measures are written.
FORMATS = {"loss": ".4f", "accuracy": ".2%", "certified_accuracy": ".2%", "mae": ".4f"}

# {what a task measures beside its loss: (title of the loss, its own title)}
TITLES = {
    "accuracy": ("Cross-entropy", "Accuracy"),
    "mae": ("Mean squared error", "Mean absolute error"),
}


def classification(dataset, label_smoothing) -> Task:
    """Softmax cross-entropy and accuracy of logits [B, K] against classes [B] or probabilities
    [B, K] of mixed images; right is then the most probable class.

    With `label_smoothing` s, training minimizes the cross-entropy to (1 - s) p + s / K, where p is
    one-hot or those probabilities; what is evaluated is never smoothed.
    """

    def normalize(images):  # uint8 [B, H, W, C] -> float32 of mean 0 and variance 1
        return (images / 255.0 - jnp.asarray(dataset.mean)) / jnp.asarray(dataset.std)

    def smoothed(logits, targets):
        if targets.ndim == 1:
            targets = jax.nn.one_hot(targets, logits.shape[-1])
        return optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, label_smoothing))

    def cross_entropy(logits, targets):
        if targets.ndim == 1:
            return optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        return optax.softmax_cross_entropy(logits, targets)

    def correct(logits, targets):
        labels = targets if targets.ndim == 1 else jnp.argmax(targets, axis=-1)
        return jnp.argmax(logits, axis=-1) == labels

    return Task(
        normalize,
        smoothed if label_smoothing else cross_entropy,
        {"loss": cross_entropy, "accuracy": correct},
    )


EPSILON = 36 / 255  # of certified accuracy, in pixels from 0 to 1
_OFFSET, _TEMPERATURE = 2**0.5 / 4, 1 / 16


def certified_classification(dataset, label_smoothing) -> Task:
    """Classification by 1-Lipschitz logits [B, K], whose margins certify: `certified_accuracy` is
    the part of the images whose class no change of Euclidean length 36/255 can move.

    Pixels go from 0 to 1 and only their mean is subtracted: a division would change lengths. The
    loss is t cross-entropy((f - u onehot) / t), which asks for a margin of u and is flat beyond it
    (Prach, Lampert 2022, arXiv:2208.03160), with u = sqrt(2) / 4, t = 1/16.
    """
    del label_smoothing

    def centred(images):
        return images / 255.0 - jnp.asarray(dataset.mean)

    def loss(logits, labels):
        own = jax.nn.one_hot(labels, logits.shape[-1])
        scaled = (logits - _OFFSET * own) / _TEMPERATURE
        return _TEMPERATURE * optax.softmax_cross_entropy_with_integer_labels(scaled, labels)

    def correct(logits, labels):
        return jnp.argmax(logits, axis=-1) == labels

    def certified(logits, labels):
        return lipschitz.certified_radius(logits, labels) > EPSILON

    measures = {"loss": loss, "accuracy": correct, "certified_accuracy": certified}
    return Task(centred, loss, measures)


def forecasting(dataset, label_smoothing) -> Task:
    """Mean squared and mean absolute error of forecasts [B, horizon, C], already standardized."""
    del dataset, label_smoothing

    def squared(forecasts, targets):
        return jnp.mean(jnp.square(forecasts - targets), axis=(1, 2))

    def absolute(forecasts, targets):
        return jnp.mean(jnp.abs(forecasts - targets), axis=(1, 2))

    return Task(lambda inputs: inputs, squared, {"loss": squared, "mae": absolute})


def tokens(dataset, label_smoothing) -> Task:
    """Cross-entropy and accuracy of logits [B, T, K] against the symbols [B, T], means over T."""
    del dataset, label_smoothing

    def cross_entropy(logits, symbols):
        each = optax.softmax_cross_entropy_with_integer_labels(logits, symbols)
        return jnp.mean(each, axis=-1)

    def correct(logits, symbols):
        return jnp.mean(jnp.argmax(logits, axis=-1) == symbols, axis=-1)

    return Task(lambda x: x, cross_entropy, {"loss": cross_entropy, "accuracy": correct})


def likelihood(dataset, label_smoothing) -> Task:
    """The model returns its negative log-likelihood of each example, or a bound of it: [B] nats.

    Pixels of images come to it in [0, 1], other inputs as they are.
    """
    del label_smoothing
    own = lambda outputs, targets: outputs
    preprocess = (lambda x: x / 255.0) if "image_shape" in dataset.model_arguments else lambda x: x
    return Task(preprocess, own, {"loss": own})


TASKS = {
    "classification": classification,
    "certified_classification": certified_classification,
    "forecasting": forecasting,
    "tokens": tokens,
    "likelihood": likelihood,
}


def name_of(config, dataset) -> str:
    """The task of `config`, by default the usual one of its data."""
    return config.get("task", "") or dataset.task


def of(config, dataset) -> Task:
    """The task that the model of `config` is trained for."""
    return TASKS[name_of(config, dataset)](dataset, config.label_smoothing)
