"""Figures of OIALR: stability of the bases, ranks, and what accuracy costs."""

import itertools
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import PercentFormatter

from experiments import results
from experiments.drawing import COLORS, STYLE, curve, label_ends


def transition(rows):
    """The step of the conversion to low rank, None if there was none."""
    return next((row["step"] for row in rows if "low_rank" in row), None)


def mark(axes, shown):
    """A dotted line where the kernels of an arm became factors."""
    for (_, rows), color in zip(shown.items(), itertools.cycle(COLORS), strict=False):
        step = transition(rows)
        if step is not None:
            axes.axvline(step, color=color, ls=":", lw=1.2)


def _in_panels(arms):
    """{panel: {line: arm}} of arms called "<line>, <panel>", each line in each panel; otherwise all
    in one panel, "".

    >>> _in_panels(["ViT, cosine", "ViT, constant", "LSTM, cosine", "LSTM, constant"])["cosine"]
    {'ViT': 'ViT, cosine', 'LSTM': 'LSTM, cosine'}
    >>> _in_panels(["dense", "OIALR"])
    {'': {'dense': 'dense', 'OIALR': 'OIALR'}}
    """
    panels = {}
    for arm in arms:
        line, _, panel = arm.rpartition(", ")
        panels.setdefault(panel, {})[line] = arm
    lines = list(map(set, panels.values()))
    if min(len(panels), len(lines[0])) > 1 and all(own == lines[0] for own in lines):
        return panels
    return {"": {arm: arm for arm in arms}}


def stability(runs):
    """How far bases turn, 1 - their stability, against the step: the mean over the kernels, with
    its range for few arms, and the learning rate below; a panel for each <panel> of arms called
    "<line>, <panel>".

    {arm: rows} -> figure, None if it was not measured.
    """
    shown = {arm: rows for arm, rows in runs.items() if any("basis_stability" in r for r in rows)}
    if not shown:
        return None
    panels = _in_panels(shown)
    figure, grid = plt.subplots(
        2,
        len(panels),
        figsize=(2.4 + 4.6 * len(panels), 5),
        sharex="col",
        sharey="row",
        height_ratios=(3, 1),
        squeeze=False,
    )
    for (panel, arms), (upper, lower) in zip(panels.items(), grid.T, strict=True):
        for (line, arm), color in zip(arms.items(), itertools.cycle(COLORS), strict=False):
            rows = shown[arm]
            measured = [r for r in rows if "basis_stability" in r]
            steps = [r["step"] for r in measured]
            # A trunk may have more kernels. Below 1e-6 there is nothing but rounding.
            turned = [1 - np.array(list(r["basis_stability"].values())) for r in measured]
            values = [np.maximum(own, 1e-6) for own in turned]
            if len(arms) <= 4:
                ends = list(map(np.min, values)), list(map(np.max, values))
                upper.fill_between(steps, *ends, color=color, alpha=0.12, lw=0)
            upper.plot(steps, list(map(np.mean, values)), color=color, label=line)
            lower.plot(*curve(rows, "learning_rate"), color=color, lw=1.2)
        lower.set(xlabel="step")
        upper.set(title=panel, yscale="log")
        mark(upper, {line: shown[arm] for line, arm in arms.items()})
    between = np.diff(steps)[0] if len(steps) > 1 else steps[0]
    title = f"How far singular bases turn: 1 - stability, states {between:g} steps apart"
    if len(panels) > 1:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    else:
        grid[0, 0].set(title=title)
    ranged = "mean and range over kernels" if len(arms) <= 4 else "mean over kernels"
    grid[0, 0].set(ylabel=ranged)
    grid[1, 0].set(ylabel="learning rate")
    for upper in grid[0]:
        label_ends(upper)
    return figure


def ranks(runs):
    """Rank of each kernel against the step, a panel an arm; None without low rank."""
    shown = {arm: rows for arm, rows in runs.items() if transition(rows) is not None}
    if not shown:
        return None
    columns = min(4, len(shown))
    lines = -(-len(shown) // columns)
    figure, panels = plt.subplots(
        lines, columns, figsize=(1.5 + 3.2 * columns, 2.9 * lines), sharey=True, squeeze=False
    )
    for axes in panels.flat[len(shown) :]:
        axes.set_visible(False)
    for axes, (arm, rows) in zip(panels.flat, shown.items(), strict=False):
        changes = [row for row in rows if "low_rank" in row]
        names = list(changes[0]["low_rank"]["ranks"])
        end = rows[-1]["step"]
        steps = [row["step"] for row in changes] + [end]
        for name, color in zip(names, plt.cm.viridis(np.linspace(0, 0.9, len(names))), strict=True):
            own = [np.max(row["low_rank"]["ranks"][name]) for row in changes]
            axes.step(steps, [*own, own[-1]], where="post", color=color, lw=1.2)
        axes.set(title=arm, xlabel="step", xlim=(0, end))
    panels[0, 0].set(ylabel="rank, a line a kernel", ylim=(0, None))
    return figure


def frontier(rows, directory) -> list[Path]:
    """Draws frontier.png, the test measure against stored size and against the multiply-adds of the
    whole training, for the rows of `results.write`; nothing if all arms are of one size."""
    rows = [row for row in rows if "stored" in row and "train_flops" in row]
    if len({row["stored"] for row in rows}) < 2:
        return []
    measure = next(m for m in ("test_accuracy", "test_loss") if any(m in row for row in rows))
    most = max(row["train_flops"] for row in rows)
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, 2, figsize=(10.5, 4.2), sharey=True)
        arms = list(dict.fromkeys(row["arm"] for row in rows))
        markers = "os^Dv<>pP*Xhd"
        means = {}
        for i, arm in enumerate(arms):
            own = [row for row in rows if row["arm"] == arm]
            y, dy = results.spread([row[measure] for row in own])
            means[arm] = y
            for axes, x in (
                (panels[0], [row["stored"] for row in own]),
                (panels[1], [row["train_flops"] / most for row in own]),
            ):
                x, dx = results.spread(x)
                axes.errorbar(
                    x,
                    y,
                    dy,
                    dx,
                    label=arm,
                    color=COLORS[i % len(COLORS)],
                    marker=markers[i % len(markers)],
                    ms=6,
                    lw=1,
                    capsize=2,
                    ls="",
                )
        panels[0].set(xlabel="stored numbers, part of dense", title=measure.replace("_", " "))
        panels[1].set(xlabel="multiply-adds of the training, part of the most")
        for axes in panels:
            axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        if measure == "test_accuracy":
            panels[0].yaxis.set_major_formatter(PercentFormatter(1.0))
            off = _zoom(panels[0], {arm: means[arm] for arm in arms})
            if off:
                panels[1].set_title("below: " + ", ".join(off), fontsize=8)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, frameon=False, loc="outside right center")
        path = Path(directory) / "frontier.png"
        figure.savefig(path)
        plt.close(figure)
    return [path]


def _zoom(axes, means):
    """Limits the axis to where most arms are; returns what falls below, as text."""
    best, middle = max(means.values()), float(np.median(list(means.values())))
    lowest = best - max(0.01, 4 * (best - middle))
    kept = [mean for mean in means.values() if mean >= lowest]
    margin = 0.1 * (best - min(kept)) + 1e-3
    axes.set_ylim(min(kept) - margin, best + margin)
    return [f"{arm} {mean:.0%}" for arm, mean in means.items() if mean < lowest]
