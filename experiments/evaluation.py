"""What is measured of a model that is being trained, beside the averages of its steps."""

import re

import jax
import jax.numpy as jnp
import numpy as np

import orthojax.nn
from experiments import data, low_rank
from experiments.training import module_of, variables_of
from orthojax import diagnostics, matrices


def over_seeds(function, seeds, *in_axes):
    """`function` of one model, for as many as there are `seeds`; unchanged for ()."""
    return jax.vmap(function, in_axes=in_axes or 0) if seeds else function


def make_evaluate(model, devices, seeds=()):
    """Returns (state, split, size) -> the measures of the task, {"loss": ...}, means over all
    examples of the split, in batches of `size`.

    `devices` is a `parallel.Parallel`. With `seeds`, the state is that of as many models and a
    measure is a list.
    """
    task = model.task

    def sums(params, variables, bases, inputs, targets, mask):
        module = module_of(model.eval, params, variables, bases)
        outputs = module(task.preprocess(inputs))
        each = [measure(outputs, targets) for measure in task.measures.values()]
        return jnp.stack([*(jnp.sum(mask * x) for x in each), jnp.sum(mask)])

    sums = jax.jit(
        over_seeds(sums, seeds, 0, 0, 0, None, None, None), out_shardings=devices.replicated
    )

    def evaluate(state, split, size):
        model_state = state.params, state.variables, state.bases
        parts = [
            jax.device_get(sums(*model_state, *devices.put_rows(size, *batch)))
            for batch in data.eval_batches(split, size, devices.rows(size))
        ]
        totals = np.sum(parts, axis=0, dtype=np.float64)
        means = totals[..., :-1] / totals[..., -1:]
        return {name: means[..., i].tolist() for i, name in enumerate(task.measures)}

    return evaluate


def make_measure(rules, seeds=(), replicated=None):
    """Returns state -> orthogonality error and singular value range of the constrained kernels,
    which every process can read with the sharding `replicated`.

    Where there are none it returns {}.
    """

    def arrays(params, bases):
        kernels = matrices.constrained(low_rank.dense(params, bases), rules)
        if not kernels:
            return {}
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

    arrays = jax.jit(over_seeds(arrays, seeds), out_shardings=replicated)

    def measure(state):
        return jax.tree.map(lambda x: x.tolist(), jax.device_get(arrays(state.params, state.bases)))

    return measure


def make_population(model, inputs, seeds=()):
    """Returns state -> state whose statistics of batch normalization are those of all `inputs`,
    layer by layer, instead of running averages."""

    # An argument: XLA would take half a minute to normalize 40,000 constant images.
    def population(state, inputs):
        module = module_of(model.train, state.params, state.variables, state.bases)
        orthojax.nn.population_statistics(module, model.task.preprocess(inputs))
        return state._replace(variables=variables_of(module))

    population = jax.jit(over_seeds(population, seeds, 0, None))
    return lambda state: population(state, inputs)


def profiled(params, kernels) -> dict[str, jax.Array]:
    """Returns {path: kernel [layers, in, out]} of what the regular expression `kernels` matches.

    Raises `ValueError` if that is nothing, or no stack of matrices.
    """
    leaves = matrices.named(params)
    chosen = {name: leaf for name, leaf in leaves.items() if re.fullmatch(kernels, name)}
    if not chosen or any(leaf.ndim != 3 for leaf in chosen.values()):
        stacks = [name for name, leaf in leaves.items() if leaf.ndim == 3]
        raise ValueError(
            f"{kernels!r} matches {', '.join(chosen) or 'nothing'}, where it should match stacked "
            f"kernels [layers, in, out]: {', '.join(stacks) or 'this model has none'}."
        )
    return chosen


def make_profile(model, kernels, inputs, targets, seeds=(), replicated=None):
    """Returns state -> {"isometry_gap": {path: [layers]}, "log_grad_norm": {path: [layers]}}.

    Of the stacked kernels [layers, in, out] whose paths `kernels`, a regular expression, matches;
    the gap is that of the columns, or of the rows if these are fewer, and infinite for zeros. The
    gradients are those of the mean loss of one batch.
    """

    def gap(kernel):
        return diagnostics.isometry_gap(matrices.MatrixAxes(-2, -1).view(kernel).mT)

    def profile(state, inputs, targets):
        def loss(params):
            module = module_of(model.train, params, state.variables, state.bases)
            return model.task.loss(module(model.task.preprocess(inputs)), targets).mean()

        def chosen(tree, measure):
            return {name: measure(leaf) for name, leaf in profiled(tree, kernels).items()}

        return {
            "isometry_gap": chosen(state.params, gap),
            "log_grad_norm": chosen(
                jax.grad(loss)(state.params), lambda g: diagnostics.log_norm(g, (-2, -1))
            ),
        }

    profile = jax.jit(over_seeds(profile, seeds, 0, None, None), out_shardings=replicated)
    return lambda state: jax.tree.map(
        lambda x: x.tolist(), jax.device_get(profile(state, inputs, targets))
    )
