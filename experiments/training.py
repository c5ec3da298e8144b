"""The pure functions of a run: model, optimizer, initial state, step, evaluation."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import orthojax
from experiments import models
from orthojax import diagnostics, matrices

OPTIMIZERS = ("sgd", "momentum", "adam", "adamw")
SCHEDULES = ("constant", "cosine")


class Metrics(NamedTuple):
    """Sums over the steps since the last logged one; part of the state, so that they survive."""

    steps: jax.Array  # [] float32
    loss: jax.Array  # [] float32
    accuracy: jax.Array  # [] float32
    update_norm: jax.Array  # [] float32


class TrainState(NamedTuple):
    """All that the next step needs."""

    step: jax.Array  # [] int32, number of steps done
    params: Any  # {"hidden_0": {"kernel": ...}}, the trained arrays
    variables: Any  # all other arrays of the model, e.g. batch statistics
    opt_state: optax.OptState
    metrics: Metrics


class Model(NamedTuple):
    """A model without its arrays: `nnx.merge(graph, params, variables)` is the module."""

    init: Any  # () -> (params, variables)
    train: nnx.GraphDef
    eval: nnx.GraphDef
    normalize: Any  # images [B, H, W, C] uint8 -> float32 of mean 0 and variance 1


def make_model(config, dataset) -> Model:
    """Returns the model of `config.model` for the images and classes of `dataset`."""

    def build():
        return models.build(
            **config.model.to_dict(),
            image_shape=dataset.train.images.shape[1:],
            num_classes=dataset.num_classes,
            rngs=nnx.Rngs(config.seed),
        )

    def init():
        _, params, variables = nnx.split(build(), nnx.Param, ...)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(variables)

    def normalize(images):
        return (images / 255.0 - jnp.asarray(dataset.mean)) / jnp.asarray(dataset.std)

    module = nnx.eval_shape(build)
    module.train()
    train = nnx.graphdef(module)
    module.eval()
    return Model(init, train, nnx.graphdef(module), normalize)


def make_schedule(config) -> optax.Schedule:
    """Returns steps done -> learning rate: linear warmup, then constant or half a cosine to 0."""
    c = config.optimizer
    schedule = {
        "constant": optax.constant_schedule(c.lr),
        "cosine": optax.cosine_decay_schedule(c.lr, config.steps - c.warmup_steps),
    }[c.schedule]
    if c.warmup_steps:
        warmup = optax.linear_schedule(c.lr / c.warmup_steps, c.lr, c.warmup_steps)
        schedule = optax.join_schedules([warmup, schedule], [c.warmup_steps])
    return schedule


def make_optimizer(config) -> optax.GradientTransformationExtraArgs:
    """Returns the optimizer of `config.optimizer`, under the constraint of `config.constraint`."""
    c, constraint, schedule = config.optimizer, config.constraint, make_schedule(config)

    def inner(weight_decay):
        match c.name:
            case "sgd":
                return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(schedule))
            case "momentum":
                sgd = optax.sgd(schedule, momentum=c.momentum)
                return optax.chain(optax.add_decayed_weights(weight_decay), sgd)
            case "adam":
                return optax.adam(schedule, c.b1, c.b2)
            case "adamw":
                return optax.adamw(schedule, c.b1, c.b2, weight_decay=weight_decay)

    if constraint.map == "none":
        optimizer = inner(c.weight_decay)
    else:
        optimizer = orthojax.orthogonal(
            inner(0.0),  # Decay of theta would pull the weights to their base, not to 0.
            map=constraint.map,
            rules=constraint.rules,
            rest=inner(c.weight_decay),
            rebase_every=constraint.rebase_every or None,
        )
    if c.clip_norm:
        # Before, not after: the constrained update must be the last.
        optimizer = optax.chain(optax.clip_by_global_norm(c.clip_norm), optimizer)
    return optimizer


def init_state(model, optimizer) -> TrainState:
    params, variables = model.init()
    # Not one zero four times: the step donates each.
    zeros = Metrics(*(jnp.zeros([]) for _ in Metrics._fields))
    return TrainState(jnp.zeros([], jnp.int32), params, variables, optimizer.init(params), zeros)


def make_train_step(model, optimizer, log_every, axis=None):
    """Returns (state, images uint8, labels) -> (state, loss).

    With `axis`, the step runs once a device on its part of the batch, inside `jax.pmap`.
    """

    def mean_over_devices(tree):
        return jax.lax.pmean(tree, axis) if axis else tree

    def loss_fn(params, variables, images, labels):
        module = nnx.merge(model.train, params, variables, copy=True)
        logits = module(model.normalize(images))
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == labels)
        return loss, (accuracy, nnx.to_pure_dict(nnx.state(module, nnx.Not(nnx.Param))))

    def train_step(state, images, labels):
        (loss, (accuracy, variables)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            state.params, state.variables, images, labels
        )
        loss, accuracy, grads = mean_over_devices((loss, accuracy, grads))
        # Keys and counters are equal on all devices; statistics of parts of a batch are not.
        variables = jax.tree.map(
            lambda x: mean_over_devices(x) if jnp.issubdtype(x.dtype, jnp.floating) else x,
            variables,
        )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        first = state.step % log_every == 0
        metrics = Metrics(jnp.ones([]), loss, accuracy, optax.tree.norm(updates))
        metrics = jax.tree.map(
            lambda total, new: jnp.where(first, 0, total) + new, state.metrics, metrics
        )
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, variables, opt_state, metrics), loss

    return train_step


def averages(metrics) -> dict[str, float]:
    """Returns the means over the steps that `metrics` has summed up."""
    totals = jax.device_get(metrics)
    return {
        "train_loss": float(totals.loss / totals.steps),
        "train_accuracy": float(totals.accuracy / totals.steps),
        "update_norm": float(totals.update_norm / totals.steps),
    }


def make_evaluate(model, split):
    """Returns (state, batches) -> {"test_loss", "test_accuracy"}, means over all examples.

    `batches` yields images, labels and a mask that is 0 where the last batch is padded; `split` is
    the sharding of these.
    """

    @jax.jit
    def sums(params, variables, images, labels, mask):
        module = nnx.merge(model.eval, params, variables, copy=True)
        logits = module(model.normalize(images))
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        correct = jnp.argmax(logits, axis=-1) == labels
        return jnp.stack([jnp.sum(mask * loss), jnp.sum(mask * correct), jnp.sum(mask)])

    def evaluate(state, batches):
        parts = [
            jax.device_get(sums(state.params, state.variables, *jax.device_put(batch, split)))
            for batch in batches
        ]
        loss, correct, examples = np.sum(parts, axis=0, dtype=np.float64)
        return {"test_loss": float(loss / examples), "test_accuracy": float(correct / examples)}

    return evaluate


def constrained(params, rules) -> dict[str, tuple[jax.Array, matrices.MatrixAxes]]:
    """Returns {path: (kernel, axes)} of what `rules` constrain, whether or not a map does so here.

    Raises `ValueError` for a leaf that no rule covers.
    """
    kernels = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = matrices.path_name(path)
        label = matrices.first_match(rules, name, leaf)
        if label != "free":
            axes = None if label == "orthogonal" else label
            kernels[name] = leaf, matrices.axes_of(name, leaf, axes)
    return kernels


def make_measure(rules):
    """Returns params -> orthogonality error and singular value range of the constrained kernels."""

    @jax.jit
    def arrays(params):
        kernels = constrained(params, rules)
        return {
            "orthogonality_error": {
                name: diagnostics.orthogonality_error(kernel, axes)
                for name, (kernel, axes) in kernels.items()
            },
            "singular_values": {
                name: jnp.stack(diagnostics.singular_value_range(kernel, axes))
                for name, (kernel, axes) in kernels.items()
            },
        }

    return lambda params: jax.tree.map(lambda x: x.tolist(), jax.device_get(arrays(params)))
