"""Adapters on a network pretrained on one half of the classes and adapted to the other half.

Per seed the network is trained on the images of the first half of the classes, all of its
parameters at once, and then gets a new head and `study.examples` images of the second half. An arm
says what is trained: `study.adapter` is one of `orthojax.adapters.ADAPTERS` of `study.size` (block,
reflections or rank; `study.factors` of boft) in the kernels that match `study.kernels`, with the
head; or "none", the head alone; or "full", everything. All arms of a seed begin with the same
network, head and batches.

Each learning rate of `study.lrs`, Adam's with a cosine to 0, is tried; in the table stands the one
of the highest mean validation accuracy, on as many images of the second half that no one is trained
on. Test accuracy is that of the test images of the second half. The energy is
`diagnostics.hyperspherical_energy` of each adapted kernel over that before; the table has the
largest relative change.
"""

import functools
import re
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx
from ml_collections import FrozenConfigDict
from tqdm import tqdm

from experiments import configuration, data, models, tasks
from experiments.configuration import ConfigurationError
from experiments.data.sources import Split
from experiments.studies import common
from orthojax import adapters, diagnostics, matrices

FIELDS = {
    "seeds": tuple,
    "data.name": str,
    "data.dir": str,
    "data.augment": str,
    "model.name": str,
    "study.batch_size": int,
    "study.pretraining_steps": int,
    "study.pretraining_lr": float,
    "study.examples": int,
    "study.steps": int,
    "study.lrs": tuple,
    "study.adapter": str,
    "study.size": int,
    "study.factors": int,
    "study.kernels": str,
    "study.head": str,
}
MAY_CHANGE = ("seeds", "study.lrs")
_PRETRAINING = ("batch_size", "pretraining_steps", "pretraining_lr")


def check(config):
    c = config.study
    configuration.check_name("data.augment", config.data.augment, list(data.AUGMENTS))
    known = ["none", "full", *adapters.ADAPTERS]
    configuration.check_name("study.adapter", c.adapter, known)
    common.check_positive(
        config,
        *(f"study.{field}" for field in (*_PRETRAINING, "examples", "steps", "size", "factors")),
    )
    if not c.lrs or not all(isinstance(lr, float) and lr > 0 for lr in c.lrs):
        raise ConfigurationError(f"study.lrs are positive floats, at least one, got {c.lrs}.")
    if c.factors > 1 and c.adapter != "boft":
        raise ConfigurationError(
            f"study.factors={c.factors} needs study.adapter=boft, got {c.adapter}; set it to 1."
        )
    for field in ("kernels", "head"):
        try:
            re.compile(c[field])
        except re.error as error:
            raise ConfigurationError(
                f"study.{field}={c[field]!r} is no regular expression: {error}."
            ) from error


def cells(config):
    return list(config.seeds)


def rules(study):
    """Those of `adapters.init` for an arm."""
    if study.adapter == "full":
        return ((".*", "free"),)
    frozen_or_free = ((study.head, "free"), (".*", "frozen"))
    if study.adapter == "none":
        return frozen_or_free
    options = (study.size, study.factors) if study.adapter == "boft" else (study.size,)
    return ((study.kernels, adapters.ADAPTERS[study.adapter](*options)), *frozen_or_free)


def half(split, classes, second):
    """The examples of the first or the second half of the `classes`, each counted from 0."""
    first = classes // 2
    chosen = np.flatnonzero((split.labels >= first) == second)
    return Split(split.images[chosen], split.labels[chosen] - (first if second else 0))


class Network:
    """A model without its parameters, and its training on images."""

    def __init__(self, config, dataset, seed):
        classes = dataset.model_arguments["num_classes"] // 2
        arguments = dataset.model_arguments | {"num_classes": classes}
        model = models.build(config.model.name, arguments, nnx.Rngs(seed), **_options(config))
        model.eval()
        graph, self.params, rest = nnx.split(model, nnx.Param, ...)
        task = tasks.TASKS[dataset.task](dataset, 0.0)
        self._augment, self._batch_size = config.data.augment, config.study.batch_size

        def outputs(theta, frozen, images):
            params = adapters.merge(frozen, theta)
            return nnx.merge(graph, params, rest)(task.preprocess(images))

        adam = optax.scale_by_adam()

        @functools.partial(jax.jit, donate_argnums=(0, 1))
        def step(theta, state, frozen, batch, lr):
            images, labels = batch
            loss = lambda theta: jnp.mean(task.loss(outputs(theta, frozen, images), labels))
            updates, state = adam.update(jax.grad(loss)(theta), state)
            return jax.tree.map(lambda x, u: x - lr * u, theta, updates), state

        @jax.jit
        def correct(theta, frozen, images, labels, mask):
            measured = task.measures["accuracy"](outputs(theta, frozen, images), labels)
            return jnp.sum(measured * mask)

        self._adam, self._step, self._correct = adam, step, correct

    def train(self, frozen, theta, split, seed, steps, lr):
        """`theta` after `steps` of Adam whose learning rate falls from `lr` to 0 by a cosine."""
        # A copy: the steps are given its memory.
        theta = jax.tree.map(jnp.array, theta)
        state = self._adam.init(theta)
        for i in tqdm(range(steps), leave=False, disable=None):
            batch = data.batch(split, self._batch_size, seed, i, self._augment)
            rate = lr * (1 + np.cos(np.pi * i / steps)) / 2
            theta, state = self._step(theta, state, frozen, batch, rate)
        return jax.block_until_ready(theta)

    def accuracy(self, frozen, theta, split):
        batches = data.eval_batches(split, min(500, len(split)))
        return sum(float(self._correct(theta, frozen, *batch)) for batch in batches) / len(split)


def _options(config):
    return {key: value for key, value in config.model.items() if key != "name"}


@functools.lru_cache(maxsize=8)  # The same for all arms.
def _pretrained(config, seed):
    """(Params, test accuracy) after training on the first half."""
    dataset = common.load_data(config.data.name, config.data.dir)
    classes = dataset.model_arguments["num_classes"]
    network, c = Network(config, dataset, seed), config.study
    everything = ((".*", "free"),)
    frozen, theta = adapters.init(jax.random.key(seed), network.params, everything)
    own = half(dataset.train, classes, second=False)
    theta = network.train(frozen, theta, own, seed, c.pretraining_steps, c.pretraining_lr)
    accuracy = network.accuracy(frozen, theta, half(dataset.test, classes, second=False))
    return adapters.merge(frozen, theta), accuracy


def energies(params, kernels):
    """{path: hyperspherical energy} of the matching kernels."""
    return {
        name: float(diagnostics.hyperspherical_energy(leaf))
        for name, leaf in matrices.named(params).items()
        if re.fullmatch(kernels, name)
    }


def make_measure(config):
    c = config.study
    pretraining = {field: c[field] for field in _PRETRAINING}
    shared = FrozenConfigDict(
        {"data": config.data.to_dict(), "model": config.model.to_dict(), "study": pretraining}
    )

    def measure(seed):
        dataset = common.load_data(config.data.name, config.data.dir)
        params, pretrained_accuracy = _pretrained(shared, seed)
        classes = dataset.model_arguments["num_classes"]
        other = half(dataset.train, classes, second=True)
        if 2 * c.examples > len(other):
            raise ConfigurationError(
                f"study.examples, for training and as many for validation, are at most "
                f"{len(other) // 2} of {config.data.name}, got {c.examples}."
            )
        order = np.random.default_rng(seed).permutation(len(other))
        train, validation = (
            Split(*other.take(order[start : start + c.examples])) for start in (0, c.examples)
        )
        test = half(dataset.test, classes, second=True)

        network = Network(config, dataset, seed + 1)  # Its head is the new one.
        new = {n: x for n, x in matrices.named(network.params).items() if re.fullmatch(c.head, n)}
        params = matrices.replaced(params, new)
        frozen, start = adapters.init(jax.random.key(seed), params, rules(c))
        before = energies(params, c.kernels)
        rows = []
        for lr in c.lrs:
            began = time.perf_counter()
            theta = network.train(frozen, start, train, seed, c.steps, lr)
            seconds = time.perf_counter() - began
            after = energies(adapters.merge(frozen, theta), c.kernels)
            rows.append(
                {
                    "seed": seed,
                    "lr": lr,
                    "trained": sum(x.size for x in jax.tree.leaves(theta)),
                    "validation_accuracy": network.accuracy(frozen, theta, validation),
                    "test_accuracy": network.accuracy(frozen, theta, test),
                    "pretrained_accuracy": pretrained_accuracy,
                    "energy_before": list(before.values()),
                    "energy_after": list(after.values()),
                    "energy_change": max(abs(after[n] / before[n] - 1) for n in before),
                    "seconds": seconds,  # With compilation at the first learning rate.
                }
            )
        return rows

    return measure


def report(arms, rows):
    names = ["trained", "learning rate", "test accuracy", "validation", "energy change"]
    lines = [["arm", *names]]
    figure, axes = plt.subplots(figsize=(6.4, 4))
    families = dict.fromkeys(arm.study.adapter for arm in arms.values())
    points = {family: [] for family in families}
    ending = common.mean_and_deviation
    for name, arm in arms.items():
        own = common.values_of(rows, name)
        if not own:
            continue
        score = lambda lr, own=own: np.mean(
            [r["validation_accuracy"] for r in own if r["lr"] == lr]
        )
        best = max(dict.fromkeys(row["lr"] for row in own), key=score)
        own = [row for row in own if row["lr"] == best]
        test = 100 * np.array([row["test_accuracy"] for row in own])
        points[arm.study.adapter].append((own[0]["trained"], test))
        lines.append(
            [
                name or "-",
                f"{own[0]['trained']:,}",
                f"{best:g}",
                ending(test, ".2f"),
                ending([100 * row["validation_accuracy"] for row in own], ".2f"),
                ending([row["energy_change"] for row in own], ".1e"),
            ]
        )
    for family, color in common.colored(families):
        if not points[family]:
            continue
        sizes, values = zip(*sorted(points[family], key=lambda point: point[0]), strict=True)
        deviation = [x.std(ddof=min(1, len(x) - 1)) for x in values]
        label = {"none": "head alone", "full": "all parameters"}.get(family, family)
        mean = [x.mean() for x in values]
        axes.errorbar(sizes, mean, deviation, color=color, marker="o", ms=4, capsize=2, label=label)
    axes.set(xscale="log", xlabel="trained parameters", ylabel="test accuracy, %")
    axes.set_title("The other half of the classes")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return {"adapters": figure}, lines
