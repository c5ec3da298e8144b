"""The table of an experiment: a row an arm and seed, from the files that its runs wrote."""

import csv
import json
import math
from pathlib import Path

from experiments import configuration, metrics
from experiments.tasks import FORMATS

SIZES = ("trainable", "stored", "served")


def collect(folder: Path) -> dict:
    """What one run came to; {} if it has not been evaluated.

    Test measures are those at the lowest validation loss, where there is a validation split, else
    the last ones; of a low-rank run, among those since the conversion. `train_flops` is the sum
    over all steps, `step_flops` what the last program takes. Times are of this machine;
    compilations from a cache take less.
    """
    rows = metrics.read(folder / "metrics.jsonl")[1]
    first = next((i for i, row in enumerate(rows) if "low_rank" in row), 0)
    evaluated = [row for row in rows[first:] if "test_loss" in row]
    if not evaluated:
        return {}
    final = metrics.best(evaluated) or evaluated[-1]
    found = {"step": final["step"]}
    splits = ("test_", "validation_", "population_")
    found |= {name: x for name, x in final.items() if name.startswith(splits)}
    changes = [row for row in rows if "low_rank" in row and row["step"] <= final["step"]]
    sizes = changes[-1]["low_rank"] if changes else {}
    found |= {name: sizes.get(name, 1.0) for name in SIZES}
    return found | _timing(folder / "timing.jsonl")


def _timing(path) -> dict:
    if not path.exists():
        return {}
    programs, phases, changes = [], [], []
    for line in path.read_text().splitlines():
        row = json.loads(line)
        if "program_at" in row:
            programs.append(row)
        elif "change_at" in row:
            changes.append(row["seconds"])
        else:  # Of the program before it.
            phases.append(row | {"flops": programs[-1]["flops"] or math.nan})
    steps = sum(phase["steps"] for phase in phases)
    if not steps:
        return {}
    return {
        "programs": len(programs),
        "compile_seconds": round(sum(row["compile_seconds"] for row in programs), 1),
        "train_seconds": round(sum(x["steps"] * x["seconds_per_step"] for x in phases), 1),
        "change_seconds": round(sum(changes), 1),
        "seconds_per_step": phases[-1]["seconds_per_step"],
        "train_flops": sum(x["steps"] * x["flops"] for x in phases),
        "step_flops": programs[-1]["flops"],
        "memory_mb": round(programs[-1]["memory_bytes"] / 1e6, 1),
    }


def write(folders: dict[str, list[Path]], workdir: Path, against: str = "") -> list[dict]:
    """Writes results.csv into `workdir` and returns its rows; `folders` is {arm: its runs}.

    With `against`, a field of the configuration, its value becomes a column.
    """
    rows = []
    for arm, runs in folders.items():
        for folder in runs:
            status = json.loads((folder / "status.json").read_text())["status"]
            config = configuration.flatten(json.loads((folder / "config.json").read_text()))
            row = {"arm": arm, "seed": config["seed"], "status": status}
            row |= {against: config[against]} if against else {}
            rows.append(row | collect(folder))
    names = list(dict.fromkeys(name for row in rows for name in row))
    with (workdir / "results.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, names)
        table.writeheader()
        table.writerows(rows)
    return rows


def spread(values) -> tuple[float, float]:
    """Mean and sample standard deviation, 0 for one value."""
    mean = sum(values) / len(values)
    variance = sum((x - mean) ** 2 for x in values) / max(1, len(values) - 1)
    return mean, math.sqrt(variance)


def table(rows: list[dict]) -> str:
    """The rows as text, an arm a line: means over its seeds, and deviations of test measures.

    Sizes are left out where all are dense.
    """
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    shown = [n for row in rows for n in row if n.startswith(("test_", "population_"))]
    shown = [*dict.fromkeys(shown), *SIZES, "step_flops", "seconds_per_step", "memory_mb"]
    dense = all(row.get(name, 1.0) == 1.0 for row in rows for name in SIZES)
    shown = [
        name for name in shown if any(name in row for row in rows) and not (dense and name in SIZES)
    ]
    lines = [["arm", *shown]]
    for arm in arms:
        line = [arm or "-"]
        for name in shown:
            own = [
                r[name] for r in rows if r["arm"] == arm and isinstance(r.get(name), int | float)
            ]
            line.append(_cell(name, own))
        lines.append(line)
    return text_table(lines)


def text_table(lines) -> str:
    """Lines of cells as text, columns aligned."""
    lines = [[str(cell) for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _cell(name, values):
    if not values:
        return "-"
    mean, deviation = spread(values)
    split, _, measure = name.partition("_")
    if split in ("test", "population"):
        text = format(mean, FORMATS.get(measure, ".4f"))
        return f"{text} ± {format(deviation, FORMATS.get(measure, '.4f'))}" if deviation else text
    if name in SIZES:
        return format(mean, ".1%")
    return format(mean, ".3g")
