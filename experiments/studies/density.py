"""Flows fitted to densities in the plane: held-out negative log-likelihood against the truth's.

Blocks of an invertible linear layer Q R and a nonlinear layer, `study.flow`, take the data to a
standard normal; trained with Adam on batches that never come again, the learning rate half a cosine
to 0. With `study.reflections` = 0 all Q are kernels kept orthogonal by `orthojax.orthogonal`,
otherwise products of as many Householder reflections.

The excess is that of the negative log-likelihood of held-out points over that under the density
that they come from: an estimate of the Kullback-Leibler divergence, 0 at best.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import orthojax
from experiments import configuration
from experiments.data import toys
from experiments.studies import common
from orthojax.nn import flows

FIELDS = {
    "seeds": tuple,
    "study.toys": tuple,
    "study.flow": str,
    "study.layers": int,
    "study.reflections": int,
    "study.steps": int,
    "study.batch_size": int,
    "study.held_out": int,
    "optimizer.lr": float,
}
MAY_CHANGE = ("seeds", "study.toys")
FLOWS = ("sylvester", "planar")
GRID = np.linspace(-4, 4, 80, dtype=np.float32)  # of the figure
SAMPLES = 1000
RULES = ((".*kernel", orthojax.MatrixAxes(-2, -1)), (".*", "free"))


def check(config):
    c = config.study
    configuration.check_name("study.flow", c.flow, list(FLOWS))
    for name in c.toys:
        configuration.check_name("study.toys", name, list(toys.NAMES))
    common.check_positive(config, "study.layers", "study.steps", "study.batch_size")
    common.check_positive(config, "study.held_out", "optimizer.lr")
    if c.reflections < 0:
        raise configuration.ConfigurationError(
            f"study.reflections are 0, for kernels kept orthogonal, or more, got {c.reflections}."
        )


def cells(config):
    return [[toy, seed] for toy in config.study.toys for seed in config.seeds]


class Stack:
    """`layers` blocks of a flow with parameters {leaf: [layers, ...]}, base and images in turn."""

    def __init__(self, flow, layers, reflections):
        reflections = reflections or None

        def block(key):
            rngs = nnx.Rngs(key)
            linear = flows.InvertibleLinear(2, reflections=reflections, rngs=rngs)
            if flow == "planar":
                return flows.Flow([linear, flows.Planar(2, rngs=rngs)])
            return flows.Flow([linear, flows.Sylvester(2, reflections=reflections, rngs=rngs)])

        self._layers = layers
        self._pure = lambda key: nnx.to_pure_dict(nnx.state(block(key)))
        self._graph = nnx.graphdef(nnx.eval_shape(block, jax.random.key(0)))

    def init(self, key):
        return jax.vmap(self._pure)(jax.random.split(key, self._layers))

    def _run(self, step, params, z, reverse):
        def one(carry, own):
            z, log_det = carry
            z, own_log_det = step(nnx.merge(self._graph, own), z)
            return (z, log_det + own_log_det), None

        return jax.lax.scan(one, (z, jnp.zeros(z.shape[:-1])), params, reverse=reverse)[0]

    def log_density(self, params, x):
        z, log_det = self._run(lambda block, z: block(z), params, x, reverse=False)
        return orthojax.flows.standard_normal(z) + log_det

    def sample(self, params, z):
        return self._run(lambda block, z: block.inverse(z), params, z, reverse=True)[0]


def make_train(stack, lr, steps):
    """Returns (key, batches [steps, B, 2]) -> (parameters, losses [steps])."""
    adam = optax.adam(optax.cosine_decay_schedule(lr, steps))
    optimizer = orthojax.orthogonal(adam, rules=RULES)

    def step(carry, x):
        params, state = carry
        loss = lambda params: -stack.log_density(params, x).mean()
        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), value

    @jax.jit
    def train(key, batches):
        params = stack.init(key)
        (params, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), batches)
        return params, losses

    return train


def _orthogonality_error(params):
    kernels = [x for path, x in orthojax.matrices.named(params).items() if path.endswith("kernel")]
    errors = [orthojax.orthogonality_error(x, orthojax.MatrixAxes(-2, -1)) for x in kernels]
    return max(map(float, errors), default=0.0)


def make_measure(config):
    c = config.study
    stack = Stack(c.flow, c.layers, c.reflections)
    train = make_train(stack, config.optimizer.lr, c.steps)
    log_density, sample = jax.jit(stack.log_density), jax.jit(stack.sample)
    grid = np.stack(np.meshgrid(GRID, GRID), axis=-1)

    def measure(cell):
        toy, seed = cell
        batches = np.stack([toys.batch(toy, c.batch_size, seed, i) for i in range(c.steps)])
        params, _ = train(jax.random.key(seed), batches)
        x = toys.batch(toy, c.held_out, seed, 0, held_out=True)
        loss = -float(np.asarray(log_density(params, x), np.float64).mean())
        row = {
            "toy": toy,
            "seed": seed,
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
            "loss": loss,
            "excess": loss + float(toys.log_density(toy, x).mean()),
            "orthogonality_error": _orthogonality_error(params),
        }
        if seed == config.seeds[0]:  # For the figure.
            z = jax.random.normal(jax.random.key(seed), (SAMPLES, 2))
            row["density"] = np.exp(log_density(params, grid)).round(3).ravel().tolist()
            row["samples"] = np.asarray(sample(params, z)).round(2).ravel().tolist()
        return [row]

    return measure


def report(arms, rows):
    names = list(dict.fromkeys(row["toy"] for row in rows))
    sizes = {arm: next(r["parameters"] for r in rows if r["arm"] == arm) for arm in arms}
    lines = [["arm", "parameters", *(f"{name}: nats, excess" for name in names)]]
    for arm in arms:
        own = [common.values_of(rows, arm, toy=name) for name in names]
        cells = [
            "; ".join(
                common.mean_and_deviation([row[key] for row in runs], form)
                for key, form in (("loss", ".3f"), ("excess", ".3f"))
            )
            for runs in own
        ]
        lines.append([arm or "-", str(sizes[arm]), *cells])
    figure, axes = plt.subplots(
        len(names),
        2 * len(arms) + 1,
        figsize=(3.2 * len(arms) + 1.8, 1.75 * len(names)),
        squeeze=False,
    )
    for line, name in zip(axes, names, strict=True):
        line[0].plot(*toys.batch(name, SAMPLES, 0, 0).T, ".", ms=1.2, color="#000000")
        line[0].set_ylabel(name)
        for arm, (of_density, of_samples) in zip(arms, line[1:].reshape(-1, 2), strict=True):
            drawn = [row for row in common.values_of(rows, arm, toy=name) if "density" in row]
            if drawn:
                density = np.reshape(drawn[0]["density"], (len(GRID), len(GRID)))
                ends = (GRID[0], GRID[-1], GRID[0], GRID[-1])
                top = np.quantile(density, 0.995)
                of_density.imshow(density, origin="lower", extent=ends, vmax=top)
                of_samples.plot(*np.reshape(drawn[0]["samples"], (-1, 2)).T, ".", ms=1.2)
    axes[0, 0].set_title("data")
    for arm, panel in zip(arms, axes[0, 1::2], strict=True):
        panel.set_title(arm or "model")
    for panel in axes.ravel():
        panel.set(xlim=GRID[[0, -1]], ylim=GRID[[0, -1]], xticks=[], yticks=[], aspect="equal")
        panel.grid(visible=False)
    return {"density": figure}, lines
