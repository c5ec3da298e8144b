"""Electricity transformer temperatures (ETT): windows of a series, for forecasting.

    train, validation, test = load_series("ettm2", data_dir=None, history=96, horizon=192)
    inputs, targets = train.take([0, 1, 2])

Zhou et al. 2021, arXiv:2012.07436. Split, scale and calendar as in the code of Informer and of
Autoformer (Wu et al. 2021, arXiv:2106.13008), so that errors compare with published ones.
"""

import dataclasses
import os
import shlex
from pathlib import Path

import numpy as np

from experiments.data import originals, sources
from experiments.data.releases import SERIES

STEPS_PER_HOUR = {"etth1": 1, "ettm2": 4}
# Hours of the train, validation and test rows: 12, 4 and 4 months of 30 days. The rest is not used.
HOURS = (8640, 2880, 2880)


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
    """Examples cut out of one series: `history` rows as inputs, the next `horizon` as targets."""

    series: np.ndarray  # float32 [T, C], standardized
    marks: np.ndarray  # float32 [T, M], the calendar
    starts: np.ndarray  # int [N], first row of each window
    history: int
    horizon: int

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, indices) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Returns the inputs and targets of the windows at `indices`, int [B].

        The inputs are "past" [B, history, C], "past_marks" [B, history, M] and "future_marks"
        [B, horizon, M], the targets [B, horizon, C].
        """
        rows = self.starts[indices][:, None] + np.arange(self.history + self.horizon)
        past, future = np.split(rows, [self.history], axis=1)
        inputs = {
            "past": self.series[past],
            "past_marks": self.marks[past],
            "future_marks": self.marks[future],
        }
        return inputs, self.series[future]


def load_series(
    name: str, data_dir: str | os.PathLike | None, history: int, horizon: int
) -> tuple[Windows, Windows, Windows]:
    """Returns train, validation and test windows of `etth1` (hourly) or `ettm2` (quarter-hourly).

    The first windows of validation and test look back into the split before: their targets are
    the first rows of their own. Each channel has mean 0 and variance 1 over the train rows.

    Args:
        name: a key of `STEPS_PER_HOUR`.
        data_dir: folder that has the CSV in its `ett`; by default $TFDS_DATA_DIR, else
            ~/tensorflow_datasets.
        history: rows that a model sees.
        horizon: rows that it is to forecast.

    Raises:
        FileNotFoundError: a set that is not prepared; the message has the command that does it.
        ValueError: a file that is not the original, or windows longer than a split.
    """
    path = csv_path(name, data_dir)
    if not path.is_file():
        option = f" --data_dir={shlex.quote(os.fspath(data_dir))}" if data_dir else ""
        raise FileNotFoundError(
            f"{name} is not prepared: there is no {path}; run: "
            f"python scripts/prepare_data.py --dataset={name}{option}"
        )
    content = path.read_bytes()
    originals.check_sha256(path, content, SERIES[name].sha256)
    dates, values = parse(content)
    sizes = [hours * STEPS_PER_HOUR[name] for hours in HOURS]
    if history < 1 or horizon < 1 or history + horizon > sizes[0] or horizon > sizes[1]:
        raise ValueError(
            f"`history` and `horizon` are at least 1 and together at most the {sizes[0]} train rows"
            f" of {name}, `horizon` at most the {sizes[1]} validation rows; got {history} and "
            f"{horizon}."
        )
    train = values[: sizes[0]]
    series = ((values - train.mean(axis=0)) / train.std(axis=0)).astype(np.float32)
    marks = calendar(dates, with_minutes=STEPS_PER_HOUR[name] > 1)
    ends = np.cumsum(sizes)
    first_targets = [history, ends[0], ends[1]]
    return tuple(
        Windows(series, marks, np.arange(first, end - horizon + 1) - history, history, horizon)
        for first, end in zip(first_targets, ends, strict=True)
    )


def csv_path(name: str, data_dir: str | os.PathLike | None = None) -> Path:
    """Returns where the CSV of a set lies, whether or not it is there."""
    folder = Path(data_dir).expanduser() if data_dir else sources.default_data_dir()
    return folder / "ett" / SERIES[name].name


def parse(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Returns dates, datetime64[s] [T], and values, float64 [T, C], of a CSV with a header."""
    lines = content.decode().splitlines()[1:]
    dates = np.array([line.partition(",")[0] for line in lines], "datetime64[s]")
    columns = range(1, lines[0].count(",") + 1)
    return dates, np.loadtxt(lines, delimiter=",", usecols=columns, ndmin=2)


def calendar(dates: np.ndarray, with_minutes: bool) -> np.ndarray:
    """Hour, day of the week from Monday, of the month and of the year: float32 [T, 4].

    Each goes linearly from -0.5 for its first value to 0.5 for its last (day 31, day 366). With
    minutes there are five columns, the minute of the hour first.
    """
    hours, days = dates.astype("datetime64[h]"), dates.astype("datetime64[D]")
    weekday = (days.astype(np.int64) + 3) % 7  # day 0, 1970-01-01, was a Thursday
    parts = [
        ((dates - hours).astype("timedelta64[m]"), 59),
        (hours - days, 23),
        (weekday, 6),
        (days - dates.astype("datetime64[M]"), 30),
        (days - dates.astype("datetime64[Y]"), 365),
    ]
    columns = [part.astype(np.int64) / last - 0.5 for part, last in parts[not with_minutes :]]
    return np.stack(columns, axis=1).astype(np.float32)
