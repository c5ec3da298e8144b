"""Figures of deep networks: accuracy of all arms against a field, measures layer by layer."""

import itertools
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import PercentFormatter

from experiments.drawing import COLORS, STYLE, label_ends

# {measure: (line style, what it is called)}
_TESTS = {
    "test_accuracy": ("-", "running statistics"),
    "population_accuracy": ("--", "population statistics"),
}


def line_of(arm, value) -> str:
    """The name of the curve of an arm: arms called "<curve>, <value>" are points of one curve.

    >>> line_of("shared, 50", 50), line_of("shared, 1e-04", 1e-4), line_of("shared", 50)
    ('shared', 'shared', 'shared')
    """
    curve, _, last = arm.rpartition(", ")
    try:
        return curve if curve and float(last) == value else arm
    except ValueError:
        return arm


def against(rows, field, directory) -> list[Path]:
    """Draws accuracy.png: test accuracy of `rows` from `results.write` against `field`, a curve for
    each name of `line_of`; mean, and smallest to largest over the seeds. Nothing without a field.
    """
    rows = [row for row in rows if field in row and "test_accuracy" in row]
    if not field or not rows:
        return []
    lines = {}
    for row in rows:
        lines.setdefault(line_of(row["arm"], row[field]), []).append(row)
    measures = [name for name in _TESTS if any(name in row for row in rows)]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.5, 4.4))
        for (name, own), color in zip(lines.items(), itertools.cycle(COLORS), strict=False):
            for measure in measures:
                x = sorted({row[field] for row in own if measure in row})
                y = [[row[measure] for row in own if row[field] == at] for at in x]
                style = _TESTS[measure][0] if len(measures) > 1 else "-"
                label = name if measure == measures[-1] else None
                mean = list(map(np.mean, y))
                axes.plot(x, mean, color=color, ls=style, marker="o", ms=4, label=label)
                axes.fill_between(
                    x, list(map(min, y)), list(map(max, y)), color=color, alpha=0.15, lw=0
                )
        values = [row[field] for row in rows]
        if min(values) > 0 and max(values) / min(values) > 8:
            axes.set_xscale("log")
            axes.set_xticks(sorted(set(values)), [f"{value:g}" for value in sorted(set(values))])
            axes.minorticks_off()
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        seeds = len({row["seed"] for row in rows})
        title = "Test accuracy" + (f", mean and range of {seeds} seeds" if seeds > 1 else "")
        if len(measures) > 1:
            title += "; dashed: population statistics"
        axes.set(xlabel=field.rsplit(".")[-1].replace("_", " "), title=title)
        label_ends(axes)
        path = Path(directory) / "accuracy.png"
        figure.savefig(path)
        plt.close(figure)
    return [path]


def profile(rows):
    """Isometry gaps of the kernels and norms of their gradients against the layer, a line each time
    they were measured, for {arm: rows}; None where they were not."""
    measured = {arm: [r for r in own if "profile" in r] for arm, own in rows.items()}
    measured = {arm: own for arm, own in measured.items() if own}
    if not measured:
        return None
    figure, panels = plt.subplots(
        len(measured), 2, figsize=(10, 0.6 + 3.2 * len(measured)), squeeze=False, sharex=True
    )
    for (left, right), (arm, own) in zip(panels, measured.items(), strict=True):
        last = max(row["step"] for row in own) or 1
        for row in own:
            color = plt.cm.viridis(0.9 * row["step"] / last)
            for axes, name in ((left, "isometry_gap"), (right, "log_grad_norm")):
                for values in row["profile"][name].values():
                    shown = np.maximum(values, 1e-7) if name == "isometry_gap" else values
                    axes.plot(shown, color=color, lw=1.1, label=f"step {row['step']}")
        left.set(yscale="log", title=f"{arm}: isometry gap of the kernels".removeprefix(": "))
        right.set(title=r"log $|\nabla W_l|$")
    for axes in panels[-1]:
        axes.set_xlabel("layer")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    few = np.unique(np.linspace(0, len(labels) - 1, 6).round().astype(int))
    panels[0, 0].legend([handles[i] for i in few], [labels[i] for i in few], frameon=False)
    return figure
