"""Numbers looked up in the rows of a run: each function returns one of rows -> `Found` or None."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

Row = dict[str, Any]
OURS = "orthojax"


class Found(NamedTuple):
    """A measured number, and of what."""

    value: float
    of: str


Lookup = Callable[[list[Row]], Found | None]


def _matches(row, **fields):
    if "seconds" not in row and fields["group"] not in ("accuracy", "law"):
        return False
    for name, wanted in fields.items():
        choices = wanted if isinstance(wanted, tuple) and name != "shape" else (wanted,)
        if row.get(name) not in choices:
            return False
    return True


def _name(row):
    shape = " x ".join(map(str, row["shape"]))
    return f"{row['implementation']}: {row['method']} {row['variant']}, {shape}".replace(" ,", ",")


def find(rows: Iterable[Row], shapes: Iterable[tuple], dtype: str = "float32", **fields) -> list:
    """Rows of these fields (a tuple: one of them) at the first of `shapes` that has any."""
    rows = list(rows)
    for shape in shapes:
        found = [r for r in rows if _matches(r, shape=tuple(shape), dtype=dtype, **fields)]
        if found:
            return found
    return []


def _fastest(rows):
    return min(rows, key=lambda row: row["seconds"]["median"], default=None)


def units(*shapes: tuple[int, ...], unit: str = "jax", **fields: Any) -> Lookup:
    """The fastest of our rows of these fields, in units."""

    def measured(rows):
        row = _fastest(find(rows, shapes, implementation=OURS, **fields))
        if row is None or unit not in row["ratio"]:
            return None
        return Found(row["ratio"][unit]["median"], _name(row))

    return measured


def against(ours: Row, theirs: Row, *shapes: tuple[int, ...]) -> Lookup:
    """Seconds of our fastest row over those of their fastest."""

    def measured(rows):
        for shape in shapes:
            own = _fastest(find(rows, (shape,), implementation=OURS, **ours))
            other = _fastest(find(rows, (shape,), **theirs))
            if own and other:
                ratio = own["seconds"]["median"] / other["seconds"]["median"]
                return Found(ratio, f"{_name(own)} / {_name(other)}")
        return None

    return measured


def worst(field: str, **fields: Any) -> Lookup:
    """The largest `field` of our rows."""

    def measured(rows):
        found = [r for r in rows if _matches(r, implementation=OURS, **fields)]
        row = max(found, key=lambda row: row[field], default=None)
        return row and Found(row[field], _name(row))

    return measured


def rms(*shapes: tuple[int, ...], variant: str, over: str | None = None) -> Lookup:
    """The error of a polar factor of ours; over the least of the implementation `over`."""

    def measured(rows):
        found = find(rows, shapes, group="polar", implementation=OURS, variant=variant)
        others = find(rows, shapes, group="polar", implementation=over) if over else []
        if not found or (over and not others):
            return None
        least = min((r["rms_error"] for r in others), default=1.0)
        return Found(found[0]["rms_error"] / least, _name(found[0]))

    return measured


def leaves(field: str, many: int = 100) -> Lookup:
    """`field` of `many` leaves over that of one: the largest ratio of our rows."""

    def measured(rows):
        own = [r for r in rows if _matches(r, group="leaves", implementation=OURS)]
        one = {(r["method"], r["variant"]): r for r in own if r["leaves"] == 1}
        found = [
            Found(r[field] / one[r["method"], r["variant"]][field], _name(r))
            for r in own
            if r["leaves"] == many and (r["method"], r["variant"]) in one
        ]
        return max(found, default=None)

    return measured
