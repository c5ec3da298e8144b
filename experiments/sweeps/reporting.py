"""What a sweep came to: its table, results.csv, the figure of its frontier, and what went wrong."""

import csv
import json
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.ticker import PercentFormatter

from experiments import metrics, results
from experiments.configuration import check_name
from experiments.drawing import COLORS, STYLE
from experiments.sweeps import files, live
from experiments.sweeps.points import Point, varying, without_seed

# Of these less is better: a point that needs more for no more is not on the frontier.
COSTS = (*results.SIZES, "train_flops", "step_flops", "train_seconds", "seconds_per_step")
COSTS += ("memory_mb",)
LABELS = {name: f"{name} numbers, part of dense" for name in results.SIZES}
PARTS = (*results.SIZES, "test_accuracy", "validation_accuracy")


def rows(points: list[Point]) -> list[dict]:
    """A row a point: its name, state and overrides, and what it measured in the end, or last if it
    has not ended. As many rows as it has arms and seeds."""
    found = []
    for point in points:
        first = {"point": point.name, "state": files.state(point.folder)} | point.overrides
        measured = _final(point.folder) or _latest(point.folder) or [{}]
        found += [first | {k: x for k, x in row.items() if k not in first} for row in measured]
    return found


def _final(folder):
    if not files.ended(folder):
        return []
    with (folder / "results.csv").open(newline="") as file:
        return [{k: _number(x) for k, x in row.items() if x != ""} for row in csv.DictReader(file)]


def _latest(folder):
    found = []
    for path, status in sorted(files.statuses(folder).items()):
        own = path.parent
        parts = own.relative_to(folder).parts
        if parts[:1] == ("trunk",) or not (own / "metrics.jsonl").exists():
            continue
        row = {"arm": "/".join(parts), "status": status["status"]}
        measured = [r for r in metrics.read(own / "metrics.jsonl")[1] if "test_loss" in r]
        if measured:
            row["step"] = measured[-1]["step"]
            prefixes = ("test_", "validation_")
            row |= {k: x for k, x in measured[-1].items() if k.startswith(prefixes)}
        found.append(row)
    return found


def _number(text):
    try:
        return int(text)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            return text


def write(table: list[dict], path: Path):
    """Writes rows as CSV; those that miss a column leave it empty."""
    names = list(dict.fromkeys(name for row in table for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(table)


def text(points: list[Point], table: list[dict]) -> str:
    """The rows for a terminal: overrides, state, steps, and test measures of each arm, means over
    the seeds of a point that has several."""
    keys = varying(points)
    shown = list(dict.fromkeys(n for row in table for n in row if n.startswith("test_")))
    shown += [n for n in ("stored",) if any(row.get(n, 1.0) != 1.0 for row in table)]
    arms = any(row.get("arm") for row in table)
    lines = [live.heads(keys) + (["arm"] if arms else []) + shown]
    for point in points:
        rows_of_arms = {}
        for row in table:
            if row["point"] == point.name:
                rows_of_arms.setdefault(row.get("arm", ""), []).append(row)
        first = live.cells(point, keys, live.look(point))
        for arm, own in rows_of_arms.items():
            line = first + ([arm] if arms else [])
            for name in shown:
                values = [row[name] for row in own if name in row]
                mean = results.spread(values)[0] if values else None
                style = ".2%" if name in PARTS else ".4f"
                line.append("-" if mean is None else format(mean, style))
            lines.append(line)
    return results.text_table(lines)


def troubles(points: list[Point]) -> str:
    """What failed or diverged, why, and the last lines of its log; "" if nothing did."""
    said = []
    for point in points:
        seen = live.look(point)
        if seen["state"] in ("done", "running", "waiting"):
            continue
        overrides = json.dumps(point.overrides)
        because = f", {seen['message']}" if seen["message"] else ""
        said.append(f"{seen['state']}: {point.name} {overrides}{because}")
        if seen["state"] in ("failed", "diverged"):
            said[-1] += f"; {point.folder / 'log.txt'}:"
            said += [f"    {line}" for line in files.log_tail(point.folder)]
    return "\n".join(said)


def frontier(
    points: list[Point], table: list[dict], directory: Path, x: str = "", y: str = ""
) -> Path | None:
    """Draws frontier.png, `y` against `x`, a mark for each set of overrides: mean and standard
    deviation over seeds. Where `x` is a cost, a line joins what nothing else beats in both.

    Args:
      x, y: columns of the table; by default `stored` where it differs, else the first swept key,
        and test accuracy or loss.

    Raises ConfigurationError for a name that is no column.
    """
    names = list(dict.fromkeys(name for row in table for name in row))
    keys = [key for key in varying(points) if key != "seed"]
    sizes = {row["stored"] for row in table if "stored" in row}
    x = x or ("stored" if len(sizes) > 1 else (keys or ["seed"])[0])
    y = y or ("test_accuracy" if "test_accuracy" in names else "test_loss")
    ended = [row for row in table if row["state"] in ("done", "diverged")]
    if not ended:
        return None
    check_name("--x", x, names)
    check_name("--y", y, names)
    groups = {}
    for row in ended:
        if row.get("status", "done") == "done" and x in row and isinstance(row.get(y), int | float):
            point = next(p for p in points if p.name == row["point"])
            key = json.dumps(without_seed(point.overrides), sort_keys=True), row.get("arm", "")
            groups.setdefault(key, (without_seed(point.overrides), []))[1].append(row)
    if not groups:
        return None
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.5, 4.5))
        _draw(axes, groups, [key for key in keys if key != x], x, y)
        missing = {p.name for p in points} - {r["point"] for _, own in groups.values() for r in own}
        left_out = f"; {len(missing)} of {len(points)} points did not get there" if missing else ""
        named = [LABELS.get(name, name.replace("_", " ")) for name in (x, y)]
        axes.set(title=f"{named[1]}{left_out}", xlabel=named[0])
        for name, axis in ((x, axes.xaxis), (y, axes.yaxis)):
            if name in PARTS:
                axis.set_major_formatter(PercentFormatter(1.0))
        path = Path(directory) / "frontier.png"
        figure.savefig(path)
        plt.close(figure)
    return path


def _draw(axes, groups, keys, x, y):
    """Colours for the first of `keys` (or the arm), marks for the second."""
    means = []
    for (_, arm), (overrides, own) in groups.items():
        own_keys = [key for key in keys if key in overrides][:2]
        labels = [f"{key.rsplit('.')[-1]} {live.short(overrides[key])}" for key in own_keys]
        labels = ([arm] if arm else []) + labels
        values = [row[x] for row in own]
        numbers = all(isinstance(value, int | float) for value in values)
        at, spread = results.spread(values) if numbers else (str(values[0]), 0)
        means.append((labels, at, spread, *results.spread([row[y] for row in own])))
    colors = list(dict.fromkeys(mean[0][0] if mean[0] else "" for mean in means))
    marks = list(dict.fromkeys(", ".join(mean[0][1:]) for mean in means))
    named = set()
    for labels, at, dx, value, dy in means:
        color, mark = labels[0] if labels else "", ", ".join(labels[1:])
        label = ", ".join(labels) if (color, mark) not in named else None
        named.add((color, mark))
        axes.errorbar(
            [at],
            [value],
            dy,
            dx or None,
            label=label or None,
            color=COLORS[colors.index(color) % len(COLORS)],
            marker="os^Dv<>pP*Xhd"[marks.index(mark) % 13],
            ms=6,
            lw=1,
            capsize=2,
            ls="",
        )
    if x in COSTS:
        best = unbeaten([(m[1], m[3]) for m in means], max if y.endswith("accuracy") else min)
        axes.plot(*zip(*best, strict=True), color="#888888", lw=1, zorder=0, drawstyle="steps-post")
    else:
        lines = {}  # In order of x, where there is one.
        for labels, at, _, value, _ in sorted(means, key=lambda m: (isinstance(m[1], str), m[1])):
            lines.setdefault(tuple(labels), []).append((at, value))
        for labels, line in lines.items():
            shade = COLORS[colors.index(labels[0] if labels else "") % len(COLORS)]
            axes.plot(*zip(*line, strict=True), color=shade, lw=1, alpha=0.5, zorder=0)
    positions = [mean[1] for mean in means]
    positive = all(not isinstance(at, str) and at > 0 for at in positions)
    if positive and max(positions) > 30 * min(positions):
        axes.set_xscale("log")
    if any(mean[0] for mean in means):
        axes.figure.legend(frameon=False, loc="outside right center", fontsize=8)


def unbeaten(points, better) -> list[tuple]:
    """Those (cost, value) for which no other one costs no more and has no worse a value; `better`
    is max or min."""
    best = []
    for at, value in sorted(points, key=lambda p: (p[0], -p[1] if better is max else p[1])):
        if not best or (value != best[-1][1] and better(value, best[-1][1]) == value):
            best.append((at, value))
    return best
