"""Points of a sweep, {dotted key of the configuration: value}, and what lists of them are made of.

  def get_sweep():
      return product(grid("optimizer.lr", [1e-3, 3e-3]), grid("seed", [0, 1, 2]))

Nothing here needs jax, so that what only starts and watches other programs is small.
"""

import dataclasses
import hashlib
import itertools
import json
import math
import random
from pathlib import Path


def grid(key: str, values) -> list[dict]:
    """A point a value."""
    return [{key: value} for value in values]


def product(*sweeps) -> list[dict]:
    """Every choice of one point of each sweep; the last sweep varies fastest."""
    return [_joined(choice) for choice in itertools.product(*sweeps)]


def zipped(*sweeps) -> list[dict]:
    """The first points of all sweeps together, the second ones, ...; all of one length."""
    lengths = [len(sweep) for sweep in sweeps]
    if len(set(lengths)) > 1:
        raise ValueError(f"zipped needs sweeps of one length, got {lengths}; or take product.")
    return [_joined(choice) for choice in zip(*sweeps, strict=True)]


def chained(*sweeps) -> list[dict]:
    """The points of one sweep after those of the other, without repetition."""
    points = []
    for point in itertools.chain(*sweeps):
        if point not in points:
            points.append(point)
    return points


def draws(
    key: str,
    count: int,
    low: float,
    high: float,
    log: bool = False,
    seed: int = 0,
    whole: bool = False,
) -> list[dict]:
    """`count` random values, uniform in [low, high], or their logarithms are; `whole` rounds them.

    Always the same for one key and seed, and the first of them whatever `count`; independent for
    two keys of one seed.
    """
    if not low <= high or (log and not low > 0):
        raise ValueError(
            f"draws({key!r}) needs low <= high, and 0 < low with log=True; got {low}, {high}."
        )
    generator = random.Random(f"{seed} {key}")
    low, high = (math.log(low), math.log(high)) if log else (low, high)
    values = [generator.uniform(low, high) for _ in range(count)]
    values = [math.exp(value) for value in values] if log else values
    # Seven digits, so that a command line can be read.
    return grid(key, [round(x) if whole else float(f"{x:.7g}") for x in values])


def _joined(choice):
    joined = {}
    for point in choice:
        if twice := sorted(joined.keys() & point.keys()):
            raise ValueError(f"two of the sweeps set {', '.join(twice)}; only one of them can.")
        joined |= point
    return joined


def digest(overrides: dict) -> str:
    """A name of a point that depends on nothing but its overrides, in any order."""
    canonical = json.dumps(overrides, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def flag(key: str, value) -> str:
    """The override as it is typed, e.g. --config.optimizer.lr=0.001."""
    if isinstance(value, bool):
        value = str(value).lower()
    return f"--config.{key}={value if isinstance(value, str) else repr(value)}"


@dataclasses.dataclass(frozen=True)
class Point:
    """One run of a sweep."""

    overrides: dict
    folder: Path  # Its workdir.
    command: tuple[str, ...]  # Trains it, or goes on where it was last saved.

    @property
    def name(self) -> str:
        return self.folder.name


def varying(points) -> list[str]:
    """The keys in which the points differ; of a single point, all its keys."""
    keys = dict.fromkeys(key for point in points for key in point.overrides)
    values = {key: [point.overrides.get(key) for point in points] for key in keys}
    return [
        key for key in keys if len(points) == 1 or any(x != values[key][0] for x in values[key])
    ]


def without_seed(overrides: dict) -> dict:
    """What points that differ only in their seed have in common."""
    return {key: value for key, value in overrides.items() if key != "seed"}
