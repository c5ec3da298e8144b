"""Time to the optimum of a problem on the Stiefel manifold whose optimum is known.

Each arm, an optimizer with a learning rate and a momentum, minimizes `study.problem`, one of
`stiefel_problems.PROBLEMS`, over W [n, p] from the same start; n = `study.rows`, p =
`study.columns`.

The gap is (loss - optimum) / |optimum| of the orthonormal matrix nearest to W, in float64: never
negative, where an arm off the manifold would be below the optimum. It is measured after each of the
first `study.evaluate_every` steps and then once in so many, and an arm ends when it is at most
`study.gap`. Steps are of `study.dtype`; all arms compute the same gradient, a formula.

The clock runs during steps only: not while compiling, nor in the first step of all, which is made
twice, nor while measuring. Where the process may use one core of a CPU (`taskset -c 1`) it counts
the CPU time of the process, so that others on that core do not matter; otherwise seconds. u is one
product [n, p] [p, p], measured between the steps. Set PJRT_NPROC to the number of cores: with more
threads, the default of run.py, JAX took twice the time for products 500 x 375 on one core.

`optimizer.name` is one of `METHODS`, in JAX, or of `torch_optimizers.METHODS`.
"""

import os
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from tqdm import tqdm

from experiments import configuration
from experiments.configuration import ConfigurationError
from experiments.studies import common, torch_optimizers
from experiments.studies.stiefel_problems import PROBLEMS, make_problem
from orthojax import landing, pogo, retract
from orthojax.decompositions import orthonormalize
from orthojax.linalg import eye_like, frobenius, matmul, tangent

FIELDS = {
    "seeds": tuple,
    "study.problem": str,
    "study.rows": int,
    "study.columns": int,
    "study.condition": float,
    "study.dtype": str,
    "study.gap": float,
    "study.max_steps": int,
    "study.evaluate_every": int,
    "optimizer.name": str,
    "optimizer.lr": float,
    "optimizer.momentum": float,
}
MAY_CHANGE = ("seeds",)


def _tangent_momentum(decay):
    """G -> M, M <- P(decay M + G), P the projection on the tangent space at W: the momentum of
    Riemannian gradients, carried along by projection, for the 2 u of one projection."""

    def update_fn(updates, state, params):
        trace = tangent(params, updates + decay * state.trace)
        return trace, optax.TraceState(trace)

    return optax.GradientTransformation(lambda w: optax.TraceState(jnp.zeros_like(w)), update_fn)


def _ambient(link, *options):
    return lambda lr, momentum: optax.chain(optax.sgd(lr, momentum or None), link(*options))


def _along(link, **options):
    return lambda lr, momentum: optax.chain(
        _tangent_momentum(momentum), optax.scale(-lr), link(**options)
    )


# {name: (learning rate, momentum) -> optimizer}. Ambient gradients are as long at the optimum as
# elsewhere: their momentum does not carry on along the manifold.
METHODS = {
    "pogo": _ambient(pogo),
    "pogo_cubic": _ambient(pogo, "cubic"),
    "landing": _ambient(landing, 0.5),
    "pogo_tangent": _along(pogo, metric="euclidean"),
    "pogo_cubic_tangent": _along(pogo, order="cubic", metric="euclidean"),
    "landing_tangent": _along(landing, attraction=0.5),
    "qr": _along(retract),
    "polar": _along(retract, retraction="polar"),
    "cayley": _along(retract, retraction="cayley"),
}


def check(config):
    c = config.study
    configuration.check_name("study.problem", c.problem, list(PROBLEMS))
    configuration.check_name("study.dtype", c.dtype, ["float32", "float64"])
    names = [*METHODS, *torch_optimizers.METHODS]
    configuration.check_name("optimizer.name", config.optimizer.name, names)
    positive = ("study.columns", "study.gap", "study.max_steps", "study.evaluate_every")
    common.check_positive(config, *positive, "optimizer.lr")
    if not c.columns <= c.rows - c.problem.startswith("pca"):
        raise ConfigurationError(
            f"study.columns of problem {c.problem} are at most study.rows={c.rows}, or one less "
            f"for pca, where the loss of square W is constant; got {c.columns}."
        )
    if not c.condition >= 1:
        raise ConfigurationError(f"study.condition is at least 1, got {c.condition}.")
    if not 0 <= config.optimizer.momentum < 1:
        raise ConfigurationError(
            f"optimizer.momentum is in [0, 1), got {config.optimizer.momentum}."
        )


def cells(config):
    return list(config.seeds)


class Descent:
    """An optimizer of `METHODS` on a problem: compiled, not started."""

    def __init__(self, config, problem):
        c = config.optimizer
        tx = METHODS[c.name](c.lr, c.momentum)
        dtype = jnp.dtype(config.study.dtype)
        self._tx, self._start = tx, jnp.asarray(problem.start, dtype)
        self._constants = tuple(jnp.asarray(x, dtype) for x in problem.constants)

        def step(w, state, constants):
            updates, state = tx.update(problem.gradient(constants, w), state, w)
            return optax.apply_updates(w, updates), state

        self.start()
        before = time.perf_counter()
        with jax.default_matmul_precision("highest"):
            program = jax.jit(step, donate_argnums=(0, 1))
            self._step = program.lower(self._w, self._state, self._constants).compile()
        self.compile_seconds = time.perf_counter() - before

    def start(self):
        self._w = jnp.array(self._start)  # A copy: the steps are given its memory.
        self._state = self._tx.init(self._w)

    def advance(self, steps):
        for _ in range(steps):
            self._w, self._state = self._step(self._w, self._state, self._constants)
        jax.block_until_ready(self._w)

    def weights(self):
        return self._w


def make_measure(config):
    c, torch = config.study, config.optimizer.name in torch_optimizers.METHODS
    if torch:
        torch_optimizers.require(config.optimizer.name)
    clock_name, clock = _clock()

    def measure(seed):
        problem = make_problem(c.problem, c.rows, c.columns, c.condition, seed)
        with jax.enable_x64(c.dtype == "float64"):
            descent = (torch_optimizers.Descent if torch else Descent)(config, problem)
            descent.advance(1)  # Allocates, and starts threads.
            descent.start()
            facts = {"clock": clock_name, "compile_seconds": descent.compile_seconds}
            rows = _descend(descent, c, clock, _make_evaluate(problem), _make_unit(c))
            return [{"seed": seed, **row, **facts} for row in rows]

    return measure


def _descend(descent, study, clock, evaluate, unit):
    """Yields a row an evaluation."""
    step, seconds = 0, 0.0
    with tqdm(total=study.max_steps, leave=False, disable=None) as bar:
        while True:
            gap, error = evaluate(descent.weights())
            unit()
            before = clock()
            unit()
            row = {"step": step, "seconds": seconds, "gap": gap, "orthogonality_error": error}
            yield row | {"unit_seconds": clock() - before}
            if not np.isfinite(gap) or gap <= study.gap or step == study.max_steps:
                return
            steps = 1 if step < study.evaluate_every else study.evaluate_every
            steps = min(steps, study.max_steps - step)
            before = clock()
            descent.advance(steps)
            seconds += clock() - before
            step += steps
            bar.update(steps)
            bar.set_postfix(gap=f"{gap:.1e}")


def _clock():
    """What the clock of the module's docstring counts, and the clock."""
    if jax.default_backend() == "cpu" and len(os.sched_getaffinity(0)) == 1:
        return "CPU seconds", time.process_time
    return "seconds", time.perf_counter


def _make_evaluate(problem):
    """W -> (gap, |W'W - I|_F), both in float64."""

    @jax.jit
    def measures(constants, w):
        error = frobenius(matmul(w.mT, w) - eye_like(w))
        return problem.loss(constants, orthonormalize(w)), error

    with jax.enable_x64(True):
        constants = tuple(map(jnp.asarray, problem.constants))

    def evaluate(w):
        with jax.enable_x64(True), jax.default_matmul_precision("highest"):
            loss, error = map(float, measures(constants, jnp.asarray(w, jnp.float64)))
        if not np.isfinite(error):  # Diverged.
            return float("nan"), float("nan")
        return (loss - problem.optimum) / abs(problem.optimum), error

    return evaluate


def _make_unit(study):
    x, y = jnp.ones((study.rows, study.columns)), jnp.ones((study.columns, study.columns))
    product = jax.jit(matmul)
    x, y = x.astype(study.dtype), y.astype(study.dtype)

    def unit():
        product(x, y).block_until_ready()

    return unit


def report(arms, rows):
    study = next(iter(arms.values())).study
    title = f"{study.problem}, {study.rows} x {study.columns}, {study.dtype}"
    seconds = " or ".join(dict.fromkeys(row["clock"] for row in rows))
    names = ["to the gap", "steps", seconds, "ms a step", "u a step", "gap", "max |W'W - I|_F"]
    lines = [["arm", *names]]
    figure, panels = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    for arm, color in common.colored(arms):
        own = common.values_of(rows, arm)
        runs = [[r for r in own if r["seed"] == s] for s in dict.fromkeys(r["seed"] for r in own)]
        for run in runs:
            for axes, name in zip(panels, ("seconds", "step"), strict=True):
                label = (arm or "measured") if run is runs[0] else None
                points = [(r[name], r["gap"]) for r in run if r["step"]]
                axes.plot(*zip(*points, strict=True), color=color, label=label)
        lines.append([arm or "-", *(_row(runs, arms[arm].study.gap) if runs else "-" * len(names))])
    for axes, x in zip(panels, (seconds, "step"), strict=True):
        axes.axhline(study.gap, color="#888888", ls="--", lw=1)
        axes.set(xlabel=x, xscale="log", yscale="log")
    panels[0].set(title=title, ylabel="optimality gap")
    panels[1].legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return {"optimality": figure}, lines


def _row(runs, gap):
    """The cells of an arm: means over its seeds, and deviations if there are some."""
    steps = np.array([run[-1]["step"] for run in runs])
    seconds = np.array([run[-1]["seconds"] for run in runs])
    units = np.array([np.mean([row["unit_seconds"] for row in run]) for run in runs])
    reached = sum(run[-1]["gap"] <= gap for run in runs)
    ending = common.mean_and_deviation
    return [
        f"{reached} of {len(runs)}",
        ending(steps, ".0f"),
        ending(seconds),
        ending(1e3 * seconds / steps),
        ending(seconds / steps / units),
        ending([run[-1]["gap"] for run in runs], ".1e"),
        ending([max(row["orthogonality_error"] for row in run) for run in runs], ".1e"),
    ]
