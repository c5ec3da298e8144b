"""Loss against seconds of training: what a step costs and what it brings, in one figure."""

import itertools
import json

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import LogLocator, NullLocator

from experiments.drawing import COLORS, curve, label_ends


def seconds(path):
    """Returns (steps, seconds), the ends of the phases of a timing.jsonl, from (0, 0) on; None
    where there is none. Compilation and evaluation do not count; changes of bases do."""
    if not path.exists():
        return None
    steps, times = [0], [0.0]
    changing = 0.0
    for line in path.read_text().splitlines():
        row = json.loads(line)
        if "seconds_per_step" in row:
            steps.append(row["phase_from"] + row["steps"])
            times.append(times[-1] + changing + row["steps"] * row["seconds_per_step"])
            changing = 0.0
        elif "change_at" in row:
            changing += row["seconds"]
    return (steps, times) if len(steps) > 1 else None


def learning(rows, runs):
    """The figure of the test and training loss of several arms against seconds, means over seeds;
    None for one arm, or where a run was not timed. `rows` is {arm: rows}, `runs` {arm: paths of its
    metrics.jsonl}."""
    clocks = {
        arm: [seconds(path.with_name("timing.jsonl")) for path in paths]
        for arm, paths in runs.items()
    }
    if len(rows) < 2 or not all(itertools.chain(*clocks.values())):
        return None
    figure, axes = plt.subplots(figsize=(7, 3.8))
    for (arm, own), color in zip(rows.items(), itertools.cycle(COLORS), strict=False):
        for name, style in (
            ("train_loss", {"alpha": 0.45, "lw": 1.2, "ls": "--"}),
            ("test_loss", {"label": arm}),
        ):
            steps, loss = curve(own, name)
            at = np.mean([np.interp(steps, *clock) for clock in clocks[arm]], axis=0)
            axes.plot(at, loss, color=color, **style)
    axes.set(title="Loss, test and training (dashed)", xlabel="seconds of training", yscale="log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    label_ends(axes)
    return figure
