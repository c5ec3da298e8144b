"""Figures of one run or of the arms of an experiment, from their metrics.jsonl alone.

  python experiments/figures.py runs/quickstart/*/metrics.jsonl

draws into the current folder.
"""

import re
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # No display needed.
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator, PercentFormatter

from experiments import metrics

# Okabe and Ito's colours, which the colour-blind can tell apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

STYLE = {
    "figure.dpi": 150,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "lines.linewidth": 1.8,
}


def draw(runs, directory) -> list[Path]:
    """Draws learning.png, orthogonality.png and singular_values.png into `directory`.

    `runs` is {arm: path of its metrics.jsonl}; the last two need measured kernels.
    """
    rows = {arm: metrics.read(path)[1] for arm, path in runs.items()}
    drawn = []
    with plt.rc_context(STYLE):
        for name, figure in (
            ("learning", _learning(rows)),
            ("orthogonality", _orthogonality(rows)),
            ("singular_values", _singular_values(rows)),
        ):
            if figure is not None:
                drawn.append(Path(directory) / f"{name}.png")
                figure.savefig(drawn[-1])
                plt.close(figure)
    return drawn


def curve(rows, name):
    """Returns steps and values of the rows that hold `name`; "a/b" is row["a"]["b"]."""
    key, _, inner = name.partition("/")
    points = [(r["step"], r[key][inner] if inner else r[key]) for r in rows if key in r]
    steps, values = zip(*points, strict=True) if points else ((), ())
    return np.array(steps), np.array(values)


def kernels(rows):
    """Returns the paths of the measured kernels, conv_2 before conv_10."""
    found = {path for row in rows for path in row.get("singular_values", ())}
    return sorted(found, key=lambda path: re.sub(r"\d+", lambda n: n[0].zfill(6), path))


def _learning(rows):
    figure, (loss, accuracy) = plt.subplots(1, 2, figsize=(9.5, 3.8))
    for (arm, own), color in zip(rows.items(), COLORS, strict=False):
        for axes, name in ((loss, "loss"), (accuracy, "accuracy")):
            axes.plot(*curve(own, f"train_{name}"), color=color, alpha=0.45, lw=1.2, ls="--")
            axes.plot(*curve(own, f"test_{name}"), color=color, label=arm)
    loss.set(title="Cross-entropy", xlabel="step", yscale="log")
    loss.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    loss.yaxis.set_major_formatter("{x:g}")
    loss.yaxis.set_minor_locator(NullLocator())
    accuracy.set(title="Accuracy", xlabel="step")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0))
    # The first tenth of the steps would take most of the height.
    late = [
        value
        for line in accuracy.lines
        for step, value in zip(*line.get_data(), strict=True)
        if step > accuracy.dataLim.x1 / 10
    ]
    if late:
        accuracy.set_ylim(max(0.0, min(late) - 0.03), min(1.0, max(late) + 0.03))
    for axes in (loss, accuracy):
        _label_ends(axes)
    kinds = [
        Line2D([], [], color="#555555", ls="-", label="test"),
        Line2D([], [], color="#555555", ls="--", lw=1.2, alpha=0.6, label="train"),
    ]
    loss.legend(handles=kinds, frameon=False, loc="lower left")
    return figure


def _orthogonality(rows):
    if not any(map(kernels, rows.values())):
        return None
    figure, axes = plt.subplots(figsize=(7, 3.8))
    for (arm, own), color in zip(rows.items(), COLORS, strict=False):
        paths = kernels(own)
        for i, path in enumerate(paths):
            steps, error = curve(own, f"orthogonality_error/{path}")
            # Deeper is darker; an error of exactly 0 has no logarithm.
            alpha = 0.35 + 0.65 * (i + 1) / len(paths)
            label = arm if i == len(paths) // 2 else None
            axes.plot(steps, np.maximum(error, 1e-9), color=color, alpha=alpha, lw=1.2, label=label)
    count = len(next(filter(None, map(kernels, rows.values()))))
    axes.set(
        title=r"Orthogonality error, max $|W^\top W - I|$"
        + (f", a line for each of {count} kernels" if count > 1 else ""),
        xlabel="step",
        yscale="log",
        # From the rounding of float32 to kernels that are not orthogonal at all.
        ylim=(min(1e-8, axes.dataLim.y0), max(2.0, 2 * axes.dataLim.y1)),
    )
    _label_ends(axes)
    return figure


def _singular_values(rows):
    shown = {arm: own for arm, own in rows.items() if kernels(own)}
    if not shown:
        return None
    figure, panels = plt.subplots(
        1, len(shown), figsize=(2.2 + 3.7 * len(shown), 3.8), sharey=True, squeeze=False
    )
    for axes, (arm, own) in zip(panels[0], shown.items(), strict=True):
        paths = kernels(own)
        width = 1.2 if len(paths) <= 10 else 0.7
        for path, color in zip(paths, plt.cm.viridis(np.linspace(0, 0.9, len(paths))), strict=True):
            steps, ends = curve(own, f"singular_values/{path}")
            axes.fill_between(steps, *ends.T, color=color, alpha=0.5 / len(paths), lw=0)
            axes.plot(steps, ends[:, 0], color=color, lw=width)
            axes.plot(steps, ends[:, 1], color=color, lw=width, label=path.removesuffix("/kernel"))
        axes.set(title=arm, xlabel="step")
    top = max(1.2, *(1.05 * axes.dataLim.y1 for axes in panels[0]))
    panels[0, 0].set(ylabel="singular values, smallest and largest", ylim=(0, top))
    handles, labels = panels[0, -1].get_legend_handles_labels()
    few = np.unique(np.linspace(0, len(labels) - 1, 10).round().astype(int))
    figure.legend(
        [handles[i] for i in few],
        [labels[i] for i in few],
        frameon=False,
        loc="outside right center",
    )
    return figure


def _label_ends(axes):
    """Writes each line's label at its end, in its colour, instead of a legend; moved apart."""
    lines = [
        line
        for line in axes.lines
        if len(line.get_xdata()) and line.get_label() and not line.get_label().startswith("_")
    ]
    if not lines:
        return
    axes.figure.canvas.draw()  # Settles the limits of the axes.
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = sorted(
        (to_axes.transform((line.get_xdata()[-1], line.get_ydata()[-1]))[1], i)
        for i, line in enumerate(lines)
    )
    heights = np.array([height for height, _ in ends])
    for _ in range(100):  # Neighbours that overlap share the way they have to move.
        overlap = np.maximum(0, 0.065 - np.diff(heights))
        heights[1:] += overlap / 2
        heights[:-1] -= overlap / 2
    for height, (_, i) in zip(heights, ends, strict=True):
        axes.annotate(
            lines[i].get_label(),
            (1.0, height),
            xycoords="axes fraction",
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            color=lines[i].get_color(),
        )


if __name__ == "__main__":
    paths = [Path(argument) for argument in sys.argv[1:]]
    draw({path.parent.name: path for path in paths}, Path("."))
