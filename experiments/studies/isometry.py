"""Isometry gap over depth of batch normalization between random rotations.

X_0 = (1 - f) I + f u v', u and v uniform in [0, 1]^d; X_{l+1} = BN(W_l X_l) without mean, at the
scale of eq. 4 of Meterez et al. 2023, arXiv:2310.02012; batch and width d, float64. Their Figure 1.

Drawn dashed is the law near isometry: BN after a rotation W deletes the diagonal of W E W', where
X X' = I + E, so that E|E|^2 and with it the gap shrinks by the factor 1 - 2 / (d + 2) a
layer. Dotted is the bound of their Theorem 1 for layer l + 1, gap_0 exp(-l / k), where k =
C d^2 (1 + d gap_0), with C = .015, the value of their code.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from experiments import configuration
from experiments.drawing import label_ends
from experiments.studies import common
from orthojax.diagnostics import isometry_gap
from orthojax.normalization import batch_norm

FIELDS = {
    "seeds": tuple,
    "study.widths": tuple,
    "study.depth": int,
    "study.correlation": float,
    "study.kernel_init": str,
}
MAY_CHANGE = ("study.widths",)
KERNEL_INITS = ("orthogonal", "gaussian")
BOUND_CONSTANT = 0.015


def check(config):
    c = config.study
    common.check_numbers("study.widths", c.widths, least=2)
    common.check_positive(config, "study.depth")
    configuration.check_name("study.kernel_init", c.kernel_init, list(KERNEL_INITS))
    if not 0 <= c.correlation < 1:
        raise configuration.ConfigurationError(
            f"study.correlation, the f of (1 - f) I + f u v', is in [0, 1), got {c.correlation}."
        )


def cells(config):
    return list(config.study.widths)


def make_measure(config):
    c = config.study

    def measure(width):
        # The gap falls to 1e-6, of which float32 sees nothing.
        with jax.enable_x64(True):
            keys = jax.vmap(jax.random.key)(jnp.asarray(config.seeds))
            program = jax.jit(
                jax.vmap(lambda key: gaps(key, width, c.depth, c.correlation, c.kernel_init))
            )
            values = np.asarray(program(keys))
        return [
            {"width": width, "seed": seed, "layer": layer, "gap": float(gap)}
            for seed, own in zip(config.seeds, values, strict=True)
            for layer, gap in enumerate(own)
        ]

    return measure


def gaps(key, width, depth, correlation, kernel_init) -> jax.Array:
    """The isometry gap of X_0, ..., X_depth: [depth + 1]."""
    start, layers = jax.random.split(key)
    u, v = jax.random.uniform(start, (2, width))
    x = (1 - correlation) * jnp.eye(width) + correlation * jnp.outer(u, v)
    init = {
        "orthogonal": jax.nn.initializers.orthogonal(),
        "gaussian": jax.nn.initializers.normal(width**-0.5),
    }[kernel_init]

    def layer(x, key):  # Rows are samples here.
        x = batch_norm(x @ init(key, (width, width), x.dtype), mean=False, scale="unit")
        return x, isometry_gap(x.mT)

    x = x.mT
    _, values = jax.lax.scan(layer, x, jax.random.split(layers, depth))
    return jnp.concatenate([isometry_gap(x.mT)[None], values])


def report(arms, rows):
    lines = [["arm", "width", "gap of layer 1", "of the last", "rate", "2 / (d + 2)"]]
    widths = list(dict.fromkeys(row["width"] for row in rows))
    figure, panels = plt.subplots(
        1, len(widths), figsize=(1.6 + 3.6 * len(widths), 3.8), squeeze=False, sharey=True
    )
    for axes, width in zip(panels[0], widths, strict=True):
        for arm, color in common.colored(arms):
            own = common.values_of(rows, arm, width=width)
            seeds = list(dict.fromkeys(row["seed"] for row in own))
            values = np.array([[r["gap"] for r in own if r["seed"] == s] for s in seeds])
            layers = np.arange(values.shape[1])
            # Means of logarithms, as in the table.
            mean = np.exp(np.log(values).mean(axis=0))
            axes.fill_between(layers[1:], *_quantiles(values[:, 1:]), color=color, alpha=0.25, lw=0)
            axes.plot(layers[1:], mean[1:], color=color, label=arm or "measured")
            rates = np.log(values[:, 1] / values[:, -1]) / max(1, values.shape[1] - 2)
            lines.append(
                [
                    arm or "-",
                    width,
                    common.mean_and_deviation(values[:, 1]),
                    common.mean_and_deviation(values[:, -1]),
                    common.mean_and_deviation(rates),
                    f"{2 / (width + 2):.3g}",
                ]
            )
            if arms[arm].study.kernel_init == "orthogonal":
                law = mean[1] * np.exp(-2 * (layers[1:] - 1) / (width + 2))
                axes.plot(
                    layers[1:], law, color="#555555", ls="--", lw=1.2, label="$e^{-2l/(d+2)}$"
                )
                k = BOUND_CONSTANT * width**2 * (1 + width * mean[0])
                bound = mean[0] * np.exp(-(layers[1:] - 1) / k)
                axes.plot(layers[1:], bound, color="#999999", ls=":", lw=1.2, label="bound")
        axes.set(title=f"Isometry gap, d = n = {width}", xlabel="layer", yscale="log")
        label_ends(axes)
    return {"isometry": figure}, lines


def _quantiles(values):
    """The smallest and the largest over the seeds."""
    return values.min(axis=0), values.max(axis=0)
