"""What the figures share: colours, style, curves from logged rows, labels at the ends of lines."""

import jax
import matplotlib

matplotlib.use("Agg")  # No display needed.
import numpy as np

# Okabe and Ito's colours, which the colour-blind can tell apart; for more arms some of Tol's.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
COLORS += ("#882255", "#999933", "#332288", "#44AA99", "#888888")

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


def average(runs):
    """Returns the rows of one run, or the means over runs of the rows that all of them have."""
    if len(runs) == 1:
        return runs[0]
    keyed = [{(row["step"], *sorted(row)): row for row in rows} for rows in runs]
    common = [key for key in keyed[0] if all(key in own for own in keyed)]
    mean = lambda *xs: np.mean(xs, axis=0).tolist()
    return [jax.tree.map(mean, *(own[key] for own in keyed)) for key in common]


def curve(rows, name):
    """Returns steps and values of the rows that hold `name`; "a/b" is row["a"]["b"]."""
    key, _, inner = name.partition("/")
    points = [(r["step"], r[key][inner] if inner else r[key]) for r in rows if key in r]
    steps, values = zip(*points, strict=True) if points else ((), ())
    return np.array(steps), np.array(values)


def label_ends(axes):
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
    # None beyond the axes, where titles are.
    steps = 0.065 * np.arange(len(heights))
    heights = np.minimum(np.maximum(heights, steps), 1.0 - steps[::-1])
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
