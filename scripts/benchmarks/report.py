"""What a run leaves: tables on the screen, results.json, figures."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax

Row = dict[str, Any]


def _time(seconds):
    """ "1.23 ms", three digits."""
    for scale, unit in ((1, "s"), (1e3, "ms"), (1e6, "us")):
        if seconds * scale >= 1 or unit == "us":
            return f"{seconds * scale:.3g} {unit}"
    return ""


def _spread(stats, scale=lambda x: f"{x:.3g}"):
    return f"{scale(stats['median'])} ({scale(stats['q1'])}, {scale(stats['q3'])})"


def _bytes(count):
    return "" if count is None else f"{count / 2**20:.1f} MiB"


def _number(x):
    if x is None:
        return ""
    return "nan" if math.isnan(x) else f"{x:.2g}"


def markdown(header: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """A table."""
    lines = [[str(cell).replace("|", "\\|") for cell in line] for line in lines]
    header = [name.replace("|", "\\|") for name in header]
    rule = ["---"] * len(header)
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *lines))


def _ratio(row, unit):
    stats = row.get("ratio", {}).get(unit)
    return _spread(stats) if stats else ""


def _timed_lines(rows, units):
    for row in rows:
        name = [" x ".join(map(str, row["shape"])), row["method"], row["variant"]]
        name += [row["implementation"], row["dtype"]]
        if "seconds" not in row:
            reason = row.get("skipped") or row.get("error", "")
            yield [*name, reason, *[""] * (len(units) + 6)]
            continue
        errors = (row.get(k) for k in ("orthogonality_error", "relative_error", "gradient_error"))
        if "rms_error" in row:
            errors = (row["rms_error"], None, None)
        compile_seconds = row.get("compile_seconds") or row.get("first_call_seconds")
        yield [
            *name,
            _spread(row["seconds"], _time),
            *(_ratio(row, unit) for unit in units),
            *map(_number, errors),
            "" if compile_seconds is None else f"{compile_seconds:.2f} s",
            _bytes(row.get("memory_bytes")),
            _number(row.get("state_copies")),
        ]


_COLUMNS = ("shape", "method", "variant", "whose", "dtype", "time (quartiles)")
_MORE = ("W'W - I", "error", "gradient", "first call", "peak", "copies of W")


def timed(rows: list[Row]) -> str:
    """A table of rows that have times."""
    units = sorted({unit for row in rows for unit in row.get("ratio", {})})
    names = [f"of {unit}" if unit == "unconstrained" else f"{unit} products" for unit in units]
    more = ("rms of sigma - 1", *_MORE[1:]) if rows[0]["group"] == "polar" else _MORE
    return markdown([*_COLUMNS, *names, *more], _timed_lines(rows, units))


def _accuracy(rows):
    """Norms down, implementations across."""
    names = list(dict.fromkeys((row["method"], row["implementation"]) for row in rows))
    cells = {(r["method"], r["implementation"], r["norm"]): r["relative_error"] for r in rows}
    norms = sorted({row["norm"] for row in rows})
    lines = [[norm, *(_number(cells.get((*name, norm))) for name in names)] for norm in norms]
    return markdown(["norm", *(", ".join(name) for name in names)], lines)


def _laws(rows):
    lines = [
        [r["variant"], r["step"], _number(r["one_step_error"]), f"{r['over_law']:.3f}"]
        for r in rows
    ]
    return markdown(["POGO", "lr |S|", "one-step error", "over its law"], lines)


def _devices(rows):
    first = {(r["method"], r["layout"]): r for r in rows if r["devices"] == 1}
    lines = []
    for r in rows:
        alone = first[r["method"], r["layout"]]
        lines.append(
            [
                f"{r['method']} {r['variant']}",
                r["implementation"],
                r["layout"],
                r["devices"],
                _number(r["flops"] / alone["flops"]) if r["flops"] else "",
                ", ".join(f"{count} {name}" for name, count in r["collectives"].items()) or "none",
                _time(r["seconds"]["median"]),
            ]
        )
    header = ["step", "whose", "sharded", "devices", "operations of a device", "collectives"]
    return markdown([*header, "time"], lines)


def targets(lines: list[dict[str, Any]]) -> str:
    """The table of `targets.table`."""
    answer = {True: "yes", False: "no", None: "not measured"}
    cells = [
        [
            line["id"],
            line["what"],
            f"{line['at_most']:.3g} {line['unit']}".strip(),
            _number(line["measured"]) if line["measured"] is None else f"{line['measured']:.3g}",
            answer[line["reached"]],
            line["of"] or "",
        ]
        for line in lines
    ]
    return markdown(["id", "what", "at most", "measured", "reached", "of"], cells)


def _units(rows):
    """Each product once."""
    fastest = {}
    for row in sorted(rows, key=lambda row: -row["seconds"]["median"]):
        fastest[row["shape"], row["implementation"], row["dtype"]] = row
    lines = [
        [
            " x ".join(map(str, shape)),
            whose,
            dtype,
            _spread(row["seconds"], _time),
            f"{row['flops'] / row['seconds']['median'] / 1e9:.3g}",
        ]
        for (shape, whose, dtype), row in sorted(fastest.items())
    ]
    return markdown(["shape", "whose", "dtype", "time (quartiles)", "GFLOP/s"], lines)


_TABLES = {"unit": _units, "accuracy": _accuracy, "law": _laws, "devices": _devices}


def text(record: dict[str, Any]) -> str:
    """The whole report."""
    parts = [
        f"# Benchmark\n\n`{record['command']}`, {record['date']}, {record['seconds']:.0f} s",
        ", ".join(f"{k} {v}" for k, v in record["hardware"].items()),
        ", ".join(f"{k} {v}" for k, v in record["versions"].items()),
        "Times, and ratios within a round, are medians and quartiles. The unit is a product of "
        "[n, p] by [p, p] in float32 of the same shape and batch, by JAX or by PyTorch.",
    ]
    if record["missing"]:
        parts.append(f"Not installed: {', '.join(record['missing'])}.")
    groups = {}
    for row in record["rows"]:
        is_unit = row["method"] == "product"
        groups.setdefault("unit" if is_unit else row["group"], []).append(row)
    for group, rows in groups.items():
        parts.append(f"## {group}\n\n{_TABLES.get(group, timed)(rows)}")
    parts.append(f"## targets\n\n{targets(record['targets'])}")
    return "\n\n".join(parts) + "\n"


def write(record: dict[str, Any], directory: Path) -> list[Path]:
    """results.json and report.md."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / "results.json", directory / "report.md"]
    finite = lambda x: None if isinstance(x, float) and not math.isfinite(x) else x
    paths[0].write_text(json.dumps(jax.tree.map(finite, record), indent=1) + "\n")
    paths[1].write_text(text(record))
    return paths
