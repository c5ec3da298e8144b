"""The pure functions of a run: model, initial state, step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import orthojax
import orthojax.nn
from experiments import low_rank, models, tasks


class Metrics(NamedTuple):
    """Sums over the steps since the last logged one; part of the state, so that they survive."""

    steps: jax.Array  # [] float32
    loss: jax.Array  # [] float32
    others: dict[str, jax.Array]  # {"accuracy": [] float32}, the other measures of the task
    update_norm: jax.Array  # [] float32


class TrainState(NamedTuple):
    """All that the next step needs."""

    step: jax.Array  # [] int32, number of steps done
    params: Any  # {"hidden_0": {"kernel": ...}}, the trained arrays
    variables: Any  # all other arrays of the model, e.g. batch statistics
    opt_state: optax.OptState
    metrics: Metrics
    bases: Any  # {path: `orthojax.Basis`} where params hold cores; {} at full rank
    reference: Any  # {path: singular basis when its stability was last measured}


class Model(NamedTuple):
    """A model without its arrays: `nnx.merge(graph, params, variables)` is the module."""

    init: Any  # seed -> (params, variables)
    train: nnx.GraphDef
    eval: nnx.GraphDef
    task: tasks.Task


def make_model(config, dataset) -> Model:
    """Returns the model of `config.model` for the task and the shapes of `dataset`."""

    def build(seed):
        rngs = nnx.Rngs(jax.random.key(seed))
        return models.build(**config.model.to_dict(), arguments=dataset.model_arguments, rngs=rngs)

    def init(seed=config.seed):
        _, params, variables = nnx.split(build(seed), nnx.Param, ...)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(variables)

    module = nnx.eval_shape(lambda: build(config.seed))
    module.train()
    train = nnx.graphdef(module)
    module.eval()
    task = tasks.of(config, dataset)
    return Model(init, train, nnx.graphdef(module), task)


def init_state(model, optimizer, seed, singular_bases=lambda params: {}) -> TrainState:
    params, variables = model.init(seed)
    # Not one zero several times: the step donates each.
    others = {name: jnp.zeros([]) for name in model.task.measures if name != "loss"}
    zeros = Metrics(jnp.zeros([]), jnp.zeros([]), others, jnp.zeros([]))
    return TrainState(
        step=jnp.zeros([], jnp.int32),
        params=params,
        variables=variables,
        opt_state=optimizer.init(params),
        metrics=zeros,
        bases={},
        reference=singular_bases(params),
    )


def module_of(graph, params, variables, bases) -> nnx.Module:
    """Returns the model, whose layers multiply by factors where there are bases."""
    module = nnx.merge(graph, low_rank.bound(params, bases), variables, copy=True)
    return orthojax.nn.low_rank(module)


def variables_of(module) -> dict:
    """Returns the arrays of a module that are neither trained nor frozen bases."""
    return nnx.to_pure_dict(nnx.state(module, nnx.Not(nnx.Any(nnx.Param, orthojax.nn.FrozenBasis))))


def make_train_step(config, model, optimizer, axis=None):
    """Returns (state, inputs, targets) -> (state, loss).

    With `axis`, the step runs once a device on its part of the batch, inside `jax.pmap`.
    """
    task = model.task
    measures = {name: measure for name, measure in task.measures.items() if name != "loss"}

    def mean_over_devices(tree):
        return jax.lax.pmean(tree, axis) if axis else tree

    def loss_fn(params, variables, bases, inputs, targets):
        module = module_of(model.train, params, variables, bases)
        outputs = module(task.preprocess(inputs))
        loss = task.loss(outputs, targets).mean()
        others = {name: jnp.mean(measure(outputs, targets)) for name, measure in measures.items()}
        return loss, (others, variables_of(module))

    def train_step(state, inputs, targets):
        (loss, (others, variables)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            state.params, state.variables, state.bases, inputs, targets
        )
        grads = low_rank.masked(config, grads, state.bases)
        loss, others, grads = mean_over_devices((loss, others, grads))
        # Keys and counters are equal on all devices; statistics of parts of a batch are not.
        variables = jax.tree.map(
            lambda x: mean_over_devices(x) if jnp.issubdtype(x.dtype, jnp.floating) else x,
            variables,
        )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        # The gradients alone would not do: moments from the conversion are of the whole core.
        updates = low_rank.masked(config, updates, state.bases)
        first = state.step % config.log_every == 0
        metrics = Metrics(jnp.ones([]), loss, others, optax.tree.norm(updates))
        metrics = jax.tree.map(
            lambda total, new: jnp.where(first, 0, total) + new, state.metrics, metrics
        )
        params = optax.apply_updates(state.params, updates)
        new = state._replace(
            step=state.step + 1,
            params=params,
            variables=variables,
            opt_state=opt_state,
            metrics=metrics,
        )
        return new, loss

    return train_step


def make_basis_gradients(model):
    """Returns (state, inputs, targets) -> gradients of the bases, for bases that grow."""

    @jax.jit
    def basis_gradients(state, inputs, targets):
        def loss(bound):
            module = orthojax.nn.low_rank(nnx.merge(model.train, bound, state.variables, copy=True))
            return model.task.loss(module(model.task.preprocess(inputs)), targets).mean()

        return orthojax.basis_gradients(loss, state.params, state.bases)

    return basis_gradients


def averages(metrics) -> dict[str, float | list[float]]:
    """Returns the means over the steps that `metrics` has summed up, of each model if there are
    several."""
    totals = jax.device_get(metrics)
    sums = {"train_loss": totals.loss, **{f"train_{k}": x for k, x in totals.others.items()}}
    sums["update_norm"] = totals.update_norm
    return {name: (total / totals.steps).tolist() for name, total in sums.items()}
