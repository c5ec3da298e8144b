"""Gradients block by block, for several depths, at the start and after some steps of training.

log |grad W_l| of the mean cross-entropy of one batch in train mode, where W_l are all kernels of
block l, counted from 1, whose path matches `study.kernels`; they are stacked, [depth, ...]. First
at the start, moved to where the constraint wants it, then after `study.steps` steps of Adam under
the constraint, with the learning rate `study.lr`; there of the next batch.

A cell is a depth; all seeds are one program. Drawn is a panel for each arm, at the start and after,
and a curve for each depth: the mean over seeds and one standard deviation. The table has the
difference between the last block and the first: 0 where gradients neither vanish nor explode on
their way back.
"""

import re

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import orthojax
from experiments import configuration, data, models, tasks
from experiments.configuration import ConfigurationError
from experiments.drawing import label_ends
from experiments.studies import common
from orthojax import diagnostics, matrices

FIELDS = {
    "seeds": tuple,
    "batch_size": int,
    "data.name": str,
    "data.dir": str,
    "model.name": str,
    "constraint.map": str,
    "constraint.rules": tuple,
    "study.depths": tuple,
    "study.kernels": str,
    "study.steps": int,
    "study.lr": float,
}
MAY_CHANGE = ("study.depths",)


def check(config):
    common.check_positive(config, "batch_size", "study.lr")
    common.check_numbers("study.depths", config.study.depths, least=1)
    if config.study.steps < 0:
        raise ConfigurationError(f"study.steps must not be negative, got {config.study.steps}.")
    names = ["none", *orthojax.MAPS]
    configuration.check_name("constraint.map", config.constraint.map, names)
    try:
        re.compile(config.study.kernels)
    except re.error as error:
        raise ConfigurationError(f"study.kernels={config.study.kernels!r}: {error}.") from error


def cells(config):
    return list(config.study.depths)


def make_measure(config):
    dataset = common.load_data(config.data.name, config.data.dir)
    steps = config.study.steps

    def measure(depth):
        chosen = common.with_value(config, "model.depth", depth)
        drawn = [
            [data.batch(dataset.train, config.batch_size, seed, i) for i in range(steps + 1)]
            for seed in config.seeds
        ]
        images, labels = (np.array([[b[k] for b in own] for own in drawn]) for k in (0, 1))
        keys = jax.vmap(jax.random.key)(np.array(config.seeds))
        try:
            program = jax.jit(common.over_seeds(make_run(chosen, dataset)))
            norms, losses = program(keys, images, labels)
        except ValueError as error:
            raise ConfigurationError(f"model or constraint: {error}") from error
        return [
            {"depth": depth, "seed": seed, "step": step} | summary(own[step], float(loss[step]))
            for seed, own, loss in zip(config.seeds, np.asarray(norms), losses, strict=True)
            for step in sorted({0, steps})
        ]

    return measure


def make_run(config, dataset):
    """Returns (key, images [steps + 1, B, ...], labels [steps + 1, B]) -> log norms
    [steps + 1, depth] and losses [steps + 1], before each step and after all."""
    task = tasks.classification(dataset, 0.0)
    tx = optax.adam(config.study.lr)
    if config.constraint.map != "none":
        tx = orthojax.orthogonal(tx, map=config.constraint.map, rules=config.constraint.rules)

    def run(key, images, labels):
        module = models.build(
            **config.model.to_dict(), arguments=dataset.model_arguments, rngs=nnx.Rngs(key)
        )
        module.train()
        graph, params, others = nnx.split(module, nnx.Param, ...)

        def loss(params, images, labels):
            outputs = nnx.merge(graph, params, others, copy=True)(task.preprocess(images))
            return task.loss(outputs, labels).mean()

        def step(carry, batch):
            params, state = carry
            value, grads = jax.value_and_grad(loss)(params, *batch)
            updates, state = tx.update(grads, state, params)
            measured = block_norms(grads, config.study.kernels), value
            return (optax.apply_updates(params, updates), state), measured

        # Without a gradient the first update only moves what is off the manifold.
        updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
        params = optax.apply_updates(params, updates)
        _, measured = jax.lax.scan(step, (params, tx.init(params)), (images, labels))
        return measured

    return run


def block_norms(grads, pattern):
    """log |grad| [depth] of all stacked kernels that match, of each block together."""
    stacks = {name: x for name, x in matrices.named(grads).items() if x.ndim > 2}
    chosen = [x for name, x in stacks.items() if re.fullmatch(pattern, name)]
    if not chosen or len({len(x) for x in chosen}) > 1:
        raise ConfigurationError(
            f"study.kernels={pattern!r} must match stacked kernels of one depth, of "
            f"{', '.join(f'{name} {list(x.shape)}' for name, x in stacks.items())}."
        )
    norms = [diagnostics.log_norm(x, axis=tuple(range(1, x.ndim))) for x in chosen]
    return jax.scipy.special.logsumexp(2 * jnp.stack(norms), axis=0) / 2


def summary(log_norms, loss) -> dict:
    return {
        "loss": loss,
        "first": float(log_norms[0]),
        "last": float(log_norms[-1]),
        "fall": float(log_norms[-1] - log_norms[0]),
        "log_norms": log_norms.tolist(),
    }


def report(arms, rows):
    study = next(iter(arms.values())).study
    depths, stages = study.depths, sorted({row["step"] for row in rows})
    lines = [["last - first log |grad|, depth:", *depths]]
    for step in stages:
        for arm in arms:
            own = [common.values_of(rows, arm, depth=d, step=step) for d in depths]
            cells = [common.mean_and_deviation([row["fall"] for row in x], ".2f") for x in own]
            lines.append([f"{arm or '-'}, {_stage(step)}", *cells])
    return {"block_gradients": _draw(list(arms), rows, depths, stages)}, lines


def _stage(step):
    return f"after {step} steps" if step else "at the start"


def _draw(arms, rows, depths, stages):
    figure, panels = plt.subplots(
        *(len(stages), len(arms)),
        figsize=(0.6 + 2.7 * len(arms), 0.4 + 2.4 * len(stages)),
        squeeze=False,
        sharex=True,
        sharey=True,
    )
    shades = plt.get_cmap("viridis_r")(np.linspace(0.15, 1, len(depths)))
    for row_of_panels, step in zip(panels, stages, strict=True):
        for axes, arm in zip(row_of_panels, arms, strict=True):
            for depth, shade in zip(depths, shades, strict=True):
                own = common.values_of(rows, arm, depth=depth, step=step)
                if own:
                    norms = [row["log_norms"] for row in own]
                    common.band(axes, np.arange(1, depth + 1), norms, str(depth), shade)
            axes.set(title=f"{arm},\n{_stage(step)}" if arm else _stage(step))
            axes.set_xscale("log")
            label_ends(axes)
        row_of_panels[0].set_ylabel(r"$\log\,|\nabla W_l|$")
    for axes in panels[-1]:
        axes.set_xlabel("block l")
    return figure
