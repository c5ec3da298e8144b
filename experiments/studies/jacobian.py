"""Singular values of the Jacobian of deep networks at initialization, and what becomes of inputs.

Of the network of the first l of `study.depth` layers, for each l: the singular values of its
Jacobian [width, width] at a standard normal input, with the share of them that are 1 to 1e-6, and
the mean cosine between its outputs for ten such inputs. An orthogonal Jacobian says that gradients
arrive; the cosine, whether different inputs still differ.

`study.layer` is one of `LAYERS`; `study.k` is for those of `orthojax.persistent` that have one,
`study.folds` for folds, and `study.scale` for independent orthogonal kernels. In float64:
singular values below 1e-16 of the largest are rounding errors.
"""

import functools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import LogLocator

from experiments import configuration
from experiments.configuration import ConfigurationError
from experiments.drawing import label_ends
from experiments.studies import common
from orthojax import isometric, persistent
from orthojax.diagnostics import mean_correlation
from orthojax.initializers import orthogonal
from orthojax.matrices import MatrixAxes

FIELDS = {
    "seeds": tuple,
    "study.layer": str,
    "study.width": int,
    "study.depth": int,
    "study.k": int,
    "study.folds": int,
    "study.scale": float,
}
MAY_CHANGE = ("seeds",)
INPUTS = 10
SHOWN = 41  # Numbers of layers of which the spectrum is measured, at most.
ONE = 1e-6
QUANTILES = np.linspace(0, 1, 17)  # Of the spectra, kept for the figure.
DRAWN = 1e-16, 1e6


def _persistent(residual, make):
    """(key, study) -> (layer, stacked weights) of the blocks that `make` makes."""

    def network(key, c):
        blocks = make(key, c)

        def layer(x, weights):
            block = persistent.Persistent(*(w[None] for w in weights), None)
            return persistent.propagate(block, x, residual=residual)

        return layer, tuple(blocks[:4])

    return network


def _haar(key, *shape):
    return orthogonal(axes=MatrixAxes(-2, -1))(key, shape, jnp.float64)


def _fold(key, c, tied=False):
    kernel = _haar(key, 1 if tied else c.depth, c.width, c.folds)
    kernels = jnp.broadcast_to(kernel, (c.depth, c.width, c.folds))
    return lambda x, kernel: isometric.fold(x, kernel, 0.0), kernels


def _isometric_dense(key, c):
    kernels = tuple(_haar(own, c.depth, c.width, c.width) for own in jax.random.split(key))
    return lambda x, w: isometric.isometric_dense(x, w[0], 0.0, w[1]), kernels


def _sizes(key, c):
    return key, c.depth, c.width


def _with_k(make, **options):
    return lambda key, c: make(*_sizes(key, c), c.k, dtype=jnp.float64, **options)


LAYERS = {
    "fold": _fold,
    "fold_shared": functools.partial(_fold, tied=True),
    "isometric_dense": _isometric_dense,
    "shared": _persistent(
        False, lambda key, c: persistent.shared(*_sizes(key, c), dtype=jnp.float64)
    ),
    "shared_residual": _persistent(
        True, lambda key, c: persistent.shared(*_sizes(key, c), dtype=jnp.float64, residual=True)
    ),
    "projection": _persistent(True, _with_k(persistent.projection)),
    "projection_feedforward": _persistent(False, _with_k(persistent.projection, residual=False)),
    "block": _persistent(False, _with_k(persistent.block)),
    "block_residual": _persistent(True, _with_k(persistent.block, residual=True)),
    "looks_linear": _persistent(
        False, lambda key, c: persistent.looks_linear(*_sizes(key, c), dtype=jnp.float64)
    ),
    "kaiming": _persistent(
        False, lambda key, c: persistent.kaiming(*_sizes(key, c), dtype=jnp.float64)
    ),
    "kaiming_residual": _persistent(
        True, lambda key, c: persistent.kaiming(*_sizes(key, c), dtype=jnp.float64)
    ),
    "independent": _persistent(
        False, lambda key, c: persistent.independent(*_sizes(key, c), c.scale, dtype=jnp.float64)
    ),
}


def check(config):
    c = config.study
    configuration.check_name("study.layer", c.layer, list(LAYERS))
    common.check_positive(config, "study.width", "study.depth")
    if not 1 <= c.folds <= c.width:
        raise ConfigurationError(f"study.folds is from 1 to study.width={c.width}, got {c.folds}.")
    try:
        with jax.enable_x64(True):
            jax.eval_shape(lambda key: LAYERS[c.layer](key, c)[1], jax.random.key(0))
    except ValueError as error:
        raise ConfigurationError(f"study.layer={c.layer}: {error}") from error


def cells(config):
    return list(config.seeds)


def make_measure(config):
    c = config.study
    depths = np.unique(np.linspace(1, c.depth, SHOWN).round().astype(int))
    program = jax.jit(lambda key: measures(key, c, depths))

    def measure(seed):
        with jax.enable_x64(True):
            spectra, cosines = jax.device_get(program(jax.random.key(seed)))
        ones = np.mean(np.abs(spectra - 1) < ONE, axis=1)
        # Not between two of them: where half are 1 and half 0, none is 1/2.
        spectra = np.quantile(spectra, QUANTILES, axis=1, method="inverted_cdf").T
        return [
            {
                "seed": seed,
                "depth": int(depth),
                "smallest": float(spectrum[0]),
                "median": float(spectrum[len(spectrum) // 2]),
                "largest": float(spectrum[-1]),
                "ones": float(share),
                "cosine": float(cosine),
                "quantiles": spectrum.tolist(),
            }
            for depth, spectrum, share, cosine in zip(depths, spectra, ones, cosines, strict=True)
        ]

    return measure


def measures(key, study, depths):
    """Singular values [depths, width] of the Jacobians and mean cosines [depths] after so many
    layers."""
    weights_key, input_key = jax.random.split(key)
    layer, weights = LAYERS[study.layer](weights_key, study)
    x = jax.random.normal(input_key, (INPUTS, study.width), jnp.float64)

    def step(carry, weights):
        x, jacobian = carry
        jacobian = jax.jacfwd(layer)(x[0], weights) @ jacobian
        x = layer(x, weights)
        return (x, jacobian), (jacobian, mean_correlation(x))

    start = x, jnp.eye(study.width, dtype=jnp.float64)
    _, (jacobians, cosines) = jax.lax.scan(step, start, weights)
    at = depths - 1
    # One after another: a batch of them takes the memory of all.
    spectra = jax.lax.map(lambda j: jnp.linalg.svd(j, compute_uv=False), jacobians[at])
    return spectra, cosines[at]


def report(arms, rows):
    last = max(row["depth"] for row in rows)
    names = ["smallest", "median", "largest", "ones", "cosine"]
    lines = [[f"after {last} layers", *names]]
    for arm in arms:
        own = common.values_of(rows, arm, depth=last)
        means = [np.mean([row[name] for row in own]) if own else np.nan for name in names]
        lines.append([arm or "-", *(f"{x:.3g}" for x in means)])
    return {"jacobian": _spectra(arms, rows), "cosine": _cosines(arms, rows)}, lines


def _spectra(arms, rows):
    columns = min(4, len(arms))
    lines = -(-len(arms) // columns)
    figure, panels = plt.subplots(
        lines,
        columns,
        figsize=(0.6 + 2.6 * columns, 0.5 + 2.3 * lines),
        squeeze=False,
        sharex=True,
        sharey=True,
    )
    for axes in panels.flat[len(arms) :]:
        axes.set_visible(False)
    for axes, (arm, color) in zip(panels.flat, common.colored(arms), strict=False):
        own = common.values_of(rows, arm)
        own = [row for row in own if row["seed"] == own[0]["seed"]]  # Means would blur 0 and 1.
        values = np.clip([row["quantiles"] for row in own], *DRAWN)
        axes.plot([row["depth"] for row in own], values, color=color, alpha=0.6, lw=1)
        axes.set(title=arm or "measured", yscale="log")
        share = f"{own[-1]['ones']:.0%} are 1"
        background = {"facecolor": "white", "lw": 0, "pad": 1}
        axes.text(0.97, 0.5, share, ha="right", transform=axes.transAxes, bbox=background)
        axes.yaxis.set_major_locator(LogLocator(numticks=6))
    figure.supxlabel("layers", fontsize=10)
    figure.supylabel("17 quantiles of the singular values of the Jacobian", fontsize=10)
    return figure


def _cosines(arms, rows):
    figure, axes = plt.subplots(figsize=(6.5, 4))
    for arm, color in common.colored(arms):
        own = common.values_of(rows, arm)
        depths = sorted({row["depth"] for row in own})
        values = [[row["cosine"] for row in own if row["depth"] == depth] for depth in depths]
        common.band(axes, depths, np.transpose(values), arm or "measured", color)
    axes.set(title="Mean cosine between the outputs of random inputs", xlabel="layers")
    axes.set(ylim=(-0.05, 1.05))
    label_ends(axes)
    return figure
