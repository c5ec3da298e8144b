"""Figures of one run or of the arms of an experiment, from their metrics.jsonl alone.

  python experiments/figures.py runs/quickstart/*/metrics.jsonl

draws into the current folder.
"""

import itertools
import re
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator, PercentFormatter

from experiments import depth_figures, low_rank_figures, metrics, time_figures
from experiments.drawing import COLORS, STYLE, average, curve, label_ends
from experiments.tasks import TITLES


def draw(runs, directory) -> list[Path]:
    """Draws learning.png into `directory`, of several arms time.png, and, where they were
    measured, orthogonality.png, singular_values.png, stability.png, ranks.png and profile.png.

    `runs` is {arm: paths of its metrics.jsonl, one a seed}; curves are means over the seeds. More
    arms than there are colours are not drawn.
    """
    if len(runs) > len(COLORS):
        return []
    rows = {arm: average([metrics.read(path)[1] for path in paths]) for arm, paths in runs.items()}
    drawn = []
    with plt.rc_context(STYLE):
        for name, figure in (
            ("learning", _learning(rows)),
            ("time", time_figures.learning(rows, runs)),
            ("orthogonality", _orthogonality(rows)),
            ("singular_values", _singular_values(rows)),
            ("stability", low_rank_figures.stability(rows)),
            ("ranks", low_rank_figures.ranks(rows)),
            ("profile", depth_figures.profile(rows)),
        ):
            if figure is not None:
                drawn.append(Path(directory) / f"{name}.png")
                figure.savefig(drawn[-1])
                plt.close(figure)
    return drawn


def kernels(rows):
    """Returns the paths of the measured kernels, conv_2 before conv_10."""
    found = {path for row in rows for path in row.get("singular_values", ())}
    return sorted(found, key=lambda path: re.sub(r"\d+", lambda n: n[0].zfill(6), path))


def _learning(rows):
    logged = {name for own in rows.values() for row in own for name in row}
    other = next((name for name in TITLES if f"test_{name}" in logged), None)
    shown = dict(zip(("loss", other), TITLES[other], strict=True)) if other else {"loss": "Loss"}
    figure, panels = plt.subplots(1, len(shown), figsize=(4.75 * len(shown), 3.8), squeeze=False)
    panels = panels[0]
    for axes, (name, title) in zip(panels, shown.items(), strict=True):
        for (arm, own), color in zip(rows.items(), itertools.cycle(COLORS), strict=False):
            axes.plot(*curve(own, f"train_{name}"), color=color, alpha=0.45, lw=1.2, ls="--")
            axes.plot(*curve(own, f"validation_{name}"), color=color, lw=1.2, ls=":")
            axes.plot(*curve(own, f"test_{name}"), color=color, label=arm)
            if best := metrics.best(own):
                axes.plot(best["step"], best[f"test_{name}"], "o", color=color)
        axes.set(title=title, xlabel="step")
        if name == "accuracy":
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
            _limit_to_late(axes)
        elif axes.dataLim.y0 > 0:  # A density can be above 1.
            axes.set(yscale="log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_locator(NullLocator())
        label_ends(axes)
        low_rank_figures.mark(axes, rows)
    kinds = [
        Line2D([], [], color="#555555", ls="-", label="test"),
        Line2D([], [], color="#555555", ls="--", lw=1.2, alpha=0.6, label="train"),
    ]
    if any(map(metrics.best, rows.values())):
        kinds += [
            Line2D([], [], color="#555555", ls=":", lw=1.2, label="validation"),
            Line2D([], [], color="#555555", ls="", marker="o", label="test at best validation"),
        ]
    panels[0].legend(handles=kinds, frameon=False, loc="lower left")
    return figure


def _limit_to_late(axes):
    """Leaves out the first tenth of the steps, which would take most of the height."""
    late = [
        value
        for line in axes.lines
        for step, value in zip(*line.get_data(), strict=True)
        if step > axes.dataLim.x1 / 10
    ]
    if late:
        axes.set_ylim(max(0.0, min(late) - 0.03), min(1.0, max(late) + 0.03))


def _orthogonality(rows):
    if not any(map(kernels, rows.values())):
        return None
    figure, axes = plt.subplots(figsize=(7, 3.8))
    for (arm, own), color in zip(rows.items(), itertools.cycle(COLORS), strict=False):
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
    label_ends(axes)
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


if __name__ == "__main__":
    paths = [Path(argument) for argument in sys.argv[1:]]
    draw({path.parent.name: [path] for path in paths}, Path("."))
