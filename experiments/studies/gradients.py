"""Gradients at initialization, layer by layer, along one field of the configuration.

log |grad W_l| of the mean cross-entropy of one batch, in train mode, l the place of W_l in the
stacked kernels `study.kernel` [layers, ...]: for each value `study.at` of the field `study.along`,
e.g. the depth, and for each seed, of which the weights and the batch are drawn. All seeds are one
program. With `study.distinct` r > 0, a batch holds r different images, each repeated.

Drawn is, by `study.measure`, "log_norm", that of the first of these kernels, or "rate", the rate of
explosion: how much the log norms grow a layer on their way back, the mean of
`diagnostics.rate_of_explosion` over the middle layers.

The norms are logarithms from the start (`diagnostics.log_norm`): their squares would overflow
float32 from log |grad| = 44 on. Past 88 the gradients themselves do, which the table says.
"""

import jax
import matplotlib.pyplot as plt
import numpy as np
from flax import nnx
from matplotlib.ticker import NullLocator

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
    "study.along": str,
    "study.at": tuple,
    "study.kernel": str,
    "study.distinct": int,
    "study.measure": str,
}
MAY_CHANGE = ("study.at", "study.measure")
# {what is drawn: its column in the rows, its name and format in the table}
MEASURES = {
    "log_norm": ("first", "log |grad W_1|", ".2f"),
    "rate": ("rate", "rate of explosion", ".3g"),
}
BOUNDED = 5  # |log |grad W_1||: such curves have a panel of their own beside larger ones.
PROFILE = 51  # Layers of which the norms are kept, at most.
# Of all layers, between which the rate is taken: from 120 to 290 of 300. Before, the batch comes
# nearer to isometry yet, which lowers the gradients of linear networks too: with a gain of 0.2, the
# layers from 10 to 180 of sin have a rate of .0032, those from 120 to 290 one of .0003.
MIDDLE = (0.4, 29 / 30)


def check(config):
    c = config.study
    common.check_positive(config, "batch_size")
    fields = configuration.flatten(config.to_dict())
    others = ("batch_size", "study.distinct")
    known = [field for field in fields if field.startswith("model.") or field in others]
    configuration.check_name("study.along", c.along, known)
    configuration.check_name("study.measure", c.measure, list(MEASURES))
    if not c["at"]:
        raise ConfigurationError(f"study.at needs values of {c.along}.")
    for value in c["at"]:
        try:
            common.with_value(config, c.along, value)
        except TypeError as error:
            raise ConfigurationError(f"study.at: {c.along}={value!r}: {error}") from error
    distinct = c["at"] if c.along == "study.distinct" else (c.distinct,)
    if not all(0 <= r <= config.batch_size for r in distinct):
        raise ConfigurationError(
            f"study.distinct is a number of images up to batch_size={config.batch_size}, or 0 for "
            f"all; got {', '.join(map(str, distinct))}."
        )


def cells(config):
    return list(config.study["at"])


def make_measure(config):
    dataset = common.load_data(config.data.name, config.data.dir)
    along = config.study.along

    def measure(value):
        chosen = common.with_value(config, along, value)
        images, labels = batches(chosen, dataset)
        keys = jax.vmap(jax.random.key)(np.array(config.seeds))
        try:
            program = jax.jit(common.over_seeds(make_log_norms(chosen, dataset)))
            norms = program(keys, images, labels)
        except ConfigurationError:
            raise
        except ValueError as error:
            raise ConfigurationError(f"model.name={config.model.name}: {error}") from error
        return [
            {along: value, "seed": seed} | summary(own)
            for seed, own in zip(config.seeds, np.asarray(norms, float), strict=True)
        ]

    return measure


def batches(config, dataset):
    """Images [seeds, B, H, W, C] and labels [seeds, B], the first batch of each seed."""
    distinct = config.study.distinct or config.batch_size
    found = []
    for seed in config.seeds:
        images, labels = data.batch(dataset.train, config.batch_size, seed, step=0)
        repeated = np.arange(config.batch_size) % distinct
        found.append((images[repeated], labels[repeated]))
    return tuple(map(np.stack, zip(*found, strict=True)))


def make_log_norms(config, dataset):
    """Returns (key, images, labels) -> log norms [layers] of the gradients of the kernels."""
    task = tasks.classification(dataset, 0.0)

    def log_norms(key, images, labels):
        module = models.build(
            **config.model.to_dict(), arguments=dataset.model_arguments, rngs=nnx.Rngs(key)
        )
        module.train()
        graph, params, others = nnx.split(module, nnx.Param, ...)

        def loss(params):
            outputs = nnx.merge(graph, params, others, copy=True)(task.preprocess(images))
            return task.loss(outputs, labels).mean()

        kernel = stacked_kernel(jax.grad(loss)(params), config.study.kernel)
        return diagnostics.log_norm(kernel, axis=tuple(range(1, kernel.ndim)))

    return log_norms


def stacked_kernel(tree, path):
    leaves = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(tree))
    kernels = {matrices.path_name(p): x for p, x in leaves if x.ndim > 2}
    configuration.check_name("study.kernel", path, list(kernels))
    return kernels[path]


def summary(log_norms) -> dict:
    """What is kept of the log norms [L] of one network."""
    layers = np.unique(np.linspace(0, len(log_norms) - 1, PROFILE).round().astype(int))
    return {
        "first": float(log_norms[0]),
        "middle": float(log_norms[len(log_norms) // 2]),
        "last": float(log_norms[-1]),
        "rate": rate(log_norms),
        "layers": layers.tolist(),
        "log_norms": log_norms[layers].tolist(),
    }


def rate(log_norms) -> float:
    """The mean rate of explosion of the `MIDDLE` of log norms [L]; nan for L = 1."""
    first, last = (round(part * (len(log_norms) - 1)) for part in MIDDLE)
    middle = log_norms[first : last + 1]
    if len(middle) < 2:
        return float("nan")
    with np.errstate(invalid="ignore"):  # Of two that overflowed.
        return float(np.mean(diagnostics.rate_of_explosion(middle)))


def report(arms, rows):
    study = next(iter(arms.values())).study
    along, at = study.along, list(study["at"])
    title = along.removeprefix("model.").removeprefix("study.").replace("_", " ")
    column, name, form = MEASURES[study.measure]
    lines = [[f"{name}, {title}:", *at]]
    values = {}  # {arm: [seeds, values of `along`]}
    for arm in arms:
        cells = [common.values_of(rows, arm, **{along: x}) for x in at]
        own = np.array([[row[column] for row in cell] for cell in cells])
        lines.append([arm or "-", *(common.mean_and_deviation(x, form) for x in own)])
        if not own.size:  # Its data are missing.
            continue
        values[arm] = own.T
        if study.measure == "rate" and _positive(at, own.T):
            exponents = np.diff(np.log(own.mean(axis=1))) / np.diff(np.log(at))
            lines.append(["  local exponent", "", *(f"{x:.1f}" for x in exponents)])
    file, draw = ("rate", _rates) if study.measure == "rate" else ("gradients", _norms)
    drawn = {file: draw(values, at, title), "layers": _layers(arms, rows, along, at, title)}
    return drawn, lines


def _positive(at, *values):
    """Whether logarithmic axes can show `at` and the means of `values` [seeds, len(at)]."""
    return _numbers(at) and min(at) > 0 and all((own.mean(axis=0) > 0).all() for own in values)


def _numbers(at):
    return all(isinstance(x, int | float) for x in at)


def _rates(values, at, title):
    """On logarithmic axes where that is possible: powers are straight lines."""
    figure, axes = plt.subplots(figsize=(6, 3.8))
    places = at if _numbers(at) else list(range(len(at)))
    for arm, color in common.colored(values):
        common.band(axes, places, values[arm], arm or "measured", color, marker="o", ms=3)
    axes.set(title="Rate of explosion, log-norm a layer, at initialization", xlabel=title)
    if _positive(at, *values.values()):
        lowest = min(own.mean(axis=0).min() for own in values.values())
        # A mean less its deviation may be negative.
        axes.set(xscale="log", yscale="log", ylim=(lowest / 2, None))
    axes.set_xticks(places, list(map(str, at)))
    axes.xaxis.set_minor_locator(NullLocator())
    label_ends(axes)
    return figure


def _norms(values, at, title):
    """A second panel shows the bounded curves alone where others dwarf them."""
    bounded = [arm for arm, own in values.items() if np.abs(own).max() < BOUNDED]
    exploded = [
        own for own in values.values() if own[np.isfinite(own)].max(initial=0) > 3 * BOUNDED
    ]
    shown = [list(values), bounded] if exploded and len(bounded) > 1 else [list(values)]
    numbers = _numbers(at)
    places = at if numbers else list(range(len(at)))
    figure, panels = plt.subplots(
        1, len(shown), figsize=(1.5 + 4.5 * len(shown), 3.8), squeeze=False
    )
    for axes, chosen in zip(panels[0], shown, strict=True):
        for arm, color in common.colored(values):
            if arm in chosen:
                label = arm or "measured"
                common.band(axes, places, values[arm], label, color, marker="o", ms=3)
        axes.set(title=r"$\log\,|\nabla W_1|$ at initialization", xlabel=title)
        if not numbers or (min(at) > 0 and max(at) > 20 * min(at)):
            axes.set(xscale="log" if numbers else "linear")
            axes.set_xticks(places, list(map(str, at)))
            axes.xaxis.set_minor_locator(NullLocator())
        label_ends(axes)
    return figure


def _layers(arms, rows, along, at, title):
    """The layers of the last networks of each arm whose gradients did not overflow."""
    figure, axes = plt.subplots(figsize=(6, 3.8))
    for arm, color in common.colored(arms):
        for value in reversed(at):
            own = common.values_of(rows, arm, **{along: value})
            if own and np.isfinite([row["log_norms"] for row in own]).all():
                place = np.array(own[0]["layers"]) / max(1, own[0]["layers"][-1])
                label = arm if value == at[-1] else f"{arm}, {value}"
                common.band(axes, place, [row["log_norms"] for row in own], label, color)
                break
    axes.set(
        title=rf"$\log\,|\nabla W_l|$ at initialization, {title} {at[-1]}",
        xlabel="l / number of layers",
    )
    label_ends(axes)
    return figure
