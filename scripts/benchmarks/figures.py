"""Figures of a run: time against n, time against the number of matrices."""

import itertools
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from experiments.drawing import COLORS, STYLE, label_ends

Row = dict[str, Any]
# {(method, variant or None for any, implementation): label}; what else is measured is in the table.
_MAPS = {
    ("exponential", "matrix_exp", "torch"): "torch matrix_exp",
    ("exponential", "scipy.linalg.expm", "jax"): "jax expm",
    ("exponential", "expm", "orthojax"): "exponential",
    ("householder", "parametrization", "torch"): "torch householder",
    ("householder", "as trained", "orthojax"): "householder",
    ("cayley", "parametrization", "torch"): "torch cayley",
    ("cayley", "autodiff of solve", "jax"): "jax cayley",
    ("cayley", "cayley_map", "orthojax"): "cayley",
}
_STEPS = {
    ("cayley", "RiemannianSGD", "geoopt"): "geoopt canonical",
    ("qr", "RiemannianSGD", "geoopt"): "geoopt QR",
    ("pogo", "POGO, SGD", "pogo"): "pogo-torch",
    ("exponential", "rebase_every=1", "orthojax"): "exponential",
    ("cayley", "rebase_every=1", "orthojax"): "cayley",
    ("qr", "retract", "orthojax"): "QR",
    ("polar", "retract", "orthojax"): "polar",
    ("pogo", "quintic", "orthojax"): "POGO, quintic",
    ("pogo", "cubic", "orthojax"): "POGO, cubic",
    ("landing", "", "orthojax"): "landing",
}
_UNITS = {("product", "", "jax"): "one product"}


def _lines(axes, rows, names, x_of, what):
    """A line for each of `names`; dashed: peers, grey: the product."""
    colors = itertools.cycle(COLORS)
    for key, label in names.items():
        own = [r for r in rows if (r["method"], r["variant"], r["implementation"]) == key]
        # The product is measured beside each group: its shortest.
        points = {}
        for r in own:
            if "seconds" in r:
                ms = r["seconds"]["median"] * 1e3
                points[x_of(r)] = min(ms, points.get(x_of(r), ms))
        if not points:
            continue
        is_unit, is_ours = key in _UNITS, key[2] == "orthojax"
        axes.plot(
            *zip(*sorted(points.items()), strict=True),
            color="#888888" if is_unit else next(colors),
            ls="-" if is_ours or is_unit else "--",
            lw=3 if is_unit else 1.8,
            marker="o",
            ms=4,
            label=label,
        )
    ticks = sorted({x for line in axes.lines for x in line.get_xdata()})
    axes.set(xscale="log", yscale="log", **what)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    label_ends(axes)


def _square(rows, groups):
    return [
        r
        for r in rows
        if r["group"] in groups
        and len(r["shape"]) == 2
        and r["shape"][0] == r["shape"][1]
        and r["dtype"] == "float32"
    ]


def draw(rows: list[Row], directory: Path) -> list[Path]:
    """time_against_n.png and time_against_batch.png, those for which the run has two sizes."""
    found = []
    with plt.rc_context(STYLE):
        if len({tuple(r["shape"]) for r in _square(rows, ("maps", "steps"))}) > 1:
            figure, both = plt.subplots(1, 2, figsize=(13, 5))
            kinds = (("maps", _MAPS, "Value and gradient"), ("steps", _STEPS, "Optimizer step"))
            for axes, (group, names, title) in zip(both, kinds, strict=True):
                own = _square(rows, (group, "unit"))
                what = {"title": f"{title}, n x n", "xlabel": "n", "ylabel": "milliseconds"}
                _lines(axes, own, _UNITS | names, lambda r: r["shape"][0], what)
            found.append(directory / "time_against_n.png")
            figure.savefig(found[-1])
            plt.close(figure)
        batches = [r for r in rows if r["group"] == "batch"]
        if len({r["shape"][0] for r in batches}) > 1:
            n = batches[0]["shape"][-1]
            figure, axes = plt.subplots(figsize=(7.5, 4.6))
            what = {
                "title": f"Optimizer step on a batch of {n} x {n}",
                "xlabel": "matrices",
                "ylabel": "milliseconds",
            }
            _lines(axes, batches, _UNITS | _STEPS, lambda r: r["shape"][0], what)
            found.append(directory / "time_against_batch.png")
            figure.savefig(found[-1])
            plt.close(figure)
    return found
