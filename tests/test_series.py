"""The series: calendar, splits and windows, of small files in the layout of ETT."""

import datetime
import gzip
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.data import prepare, releases, series

SCRIPT = Path(__file__).parents[1] / "scripts" / "prepare_data.py"
START = datetime.datetime(2016, 7, 1)
MINUTES = {"etth1": 60, "ettm2": 15}
TRAIN, REST = 8640, 2880  # hours


def values_of(name):
    rows = (TRAIN + 2 * REST) * 60 // MINUTES[name] + 10  # the last 10 belong to no split
    rng = np.random.default_rng(0)
    return np.cumsum(rng.normal(size=(rows, 2)), axis=0) + np.array([5.0, -300.0])


def dates_of(name):
    step = datetime.timedelta(minutes=MINUTES[name])
    return [START + i * step for i in range(len(values_of(name)))]


@pytest.fixture(scope="module")
def contents():
    """{name: bytes of a CSV}."""
    return {
        name: "\n".join(
            ["date,HUFL,OT"]
            + [f"{d},{a!r},{b!r}" for d, (a, b) in zip(dates_of(name), v.tolist(), strict=True)]
        ).encode()
        for name, v in {name: values_of(name) for name in MINUTES}.items()
    }


@pytest.fixture
def data_dir(tmp_path, contents, monkeypatch):
    """A folder with both sets, which the table of releases takes for the originals."""
    (tmp_path / "ett").mkdir()
    for name, content in contents.items():
        digest = hashlib.sha256(content).hexdigest()
        original = releases.SERIES[name]
        (tmp_path / "ett" / original.name).write_bytes(content)
        official = original._replace(sha256=digest, urls=(), contents={original.name: digest})
        monkeypatch.setitem(releases.SERIES, name, official)
    return tmp_path


@pytest.mark.parametrize("with_minutes", [False, True])
def test_the_calendar_goes_from_first_to_last_value_of_each_part(with_minutes):
    dates = [
        datetime.datetime(2018, 1, 1, 0, 0),  # a Monday
        datetime.datetime(2017, 12, 31, 23, 59),  # a Sunday
        datetime.datetime(2016, 12, 31, 12, 15),  # day 366
        datetime.datetime(2016, 2, 29, 7, 45),
    ]
    expected = [
        [
            d.minute / 59,
            d.hour / 23,
            d.weekday() / 6,
            (d.day - 1) / 30,
            (d.timetuple().tm_yday - 1) / 365,
        ]
        for d in dates
    ]
    result = series.calendar(np.array(dates, "datetime64[s]"), with_minutes)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, np.array(expected)[:, not with_minutes :] - 0.5, atol=1e-7)
    assert (result[0] == -0.5).all()


@pytest.mark.parametrize("name", MINUTES)
def test_windows_are_slices_of_the_series_and_of_its_calendar(name, data_dir):
    history, horizon, per_hour = 30, 12, 60 // MINUTES[name]
    values, dates = values_of(name), dates_of(name)
    train_rows = values[: TRAIN * per_hour]
    scaled = (values - train_rows.mean(axis=0)) / train_rows.std(axis=0)
    ends = np.cumsum([TRAIN, REST, REST]) * per_hour
    splits = series.load_series(name, data_dir, history, horizon)
    for split, first, end in zip(splits, [history, *ends[:2]], ends, strict=True):
        # The targets reach from the first row of the split (train: that has a past) to its last.
        assert len(split) == end - first - horizon + 1
        indices = np.array([len(split) - 1, 0, 7])
        inputs, targets = split.take(indices)
        for i, now in enumerate(first + indices):
            np.testing.assert_allclose(
                inputs["past"][i], scaled[now - history : now], rtol=1e-5, atol=1e-6
            )
            np.testing.assert_allclose(
                targets[i], scaled[now : now + horizon], rtol=1e-5, atol=1e-6
            )
            marks = np.concatenate([inputs["past_marks"][i], inputs["future_marks"][i]])
            hours = [d.hour / 23 - 0.5 for d in dates[now - history : now + horizon]]
            np.testing.assert_allclose(marks[:, -4], hours, atol=1e-6)
        parts = 5 if per_hour > 1 else 4
        shapes = {key: array.shape for key, array in inputs.items()}
        assert shapes == {
            "past": (3, history, 2),
            "past_marks": (3, history, parts),
            "future_marks": (3, horizon, parts),
        }
        assert {array.dtype for array in (*inputs.values(), targets)} == {np.dtype(np.float32)}


def test_a_split_has_as_many_windows_as_fit(data_dir):
    assert [len(split) for split in series.load_series("etth1", data_dir, 5760, 2880)] == [1, 1, 1]
    for history, horizon in [(5761, 2880), (0, 1), (1, 0), (1, 2881)]:
        with pytest.raises(ValueError, match=f"2880 validation.*got {history} and {horizon}"):
            series.load_series("etth1", data_dir, history, horizon)


def test_a_missing_series_is_answered_with_the_command_that_brings_it(tmp_path):
    folder = tmp_path / "my data"
    with pytest.raises(FileNotFoundError) as raised:
        series.load_series("ettm2", folder, 96, 192)
    command = "python scripts/prepare_data.py --dataset=ettm2"
    assert str(raised.value).endswith(f"run: {command} --data_dir='{folder}'")
    assert f"{folder}/ett/ETTm2.csv" in str(raised.value)


def test_a_changed_file_is_refused(data_dir):
    with (data_dir / "ett" / "ETTh1.csv").open("ab") as file:
        file.write(b"\n")
    with pytest.raises(ValueError, match=r"ETTh1\.csv is not the original: expected sha256"):
        series.load_series("etth1", data_dir, 96, 96)


@pytest.mark.parametrize("folder", ["", "ett", "etth1"])
@pytest.mark.parametrize(("suffix", "pack"), [("", bytes), (".gz", gzip.compress)])
def test_a_series_is_put_in_its_place_unchanged(tmp_path, folder, suffix, pack):
    content = b"date,OT\n2016-07-01 00:00:00,1.5\n"
    digest = hashlib.sha256(content).hexdigest()
    original = releases.Original("ETTh1.csv", digest, (), {"ETTh1.csv": digest})
    raw = tmp_path / "raw" / folder
    raw.mkdir(parents=True)
    (raw / f"ETTh1.csv{suffix}").write_bytes(pack(content))
    assert prepare.prepare_series("etth1", tmp_path / "data", tmp_path / "raw", original)
    assert [path.read_bytes() for path in (tmp_path / "data").glob("ett/*")] == [content]
    assert not prepare.prepare_series("etth1", tmp_path / "data", tmp_path / "not_even_there")


def test_a_series_is_downloaded_to_its_place(tmp_path):
    content = b"date,OT\n2016-07-01 00:00:00,1.5\n"
    (tmp_path / "published").write_bytes(content)
    url = (tmp_path / "published").as_uri()
    digest = hashlib.sha256(content).hexdigest()
    original = releases.Original("ETTm2.csv", digest, (url,), {"ETTm2.csv": digest})
    assert prepare.prepare_series("ettm2", tmp_path / "data", original=original)
    assert [path.name for path in (tmp_path / "data" / "ett").iterdir()] == ["ETTm2.csv"]
    assert (tmp_path / "data" / "ett" / "ETTm2.csv").read_bytes() == content


def test_the_script_refuses_another_series_in_one_line(tmp_path):
    (tmp_path / "ETTh1.csv").write_bytes(b"date,OT\n")
    options = ["--dataset=etth1", f"--raw_dir={tmp_path}", f"--data_dir={tmp_path}"]
    result = subprocess.run([sys.executable, SCRIPT, *options], capture_output=True, text=True)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"prepare_data: {tmp_path}/ETTh1.csv (ETTh1.csv) is not the original")
    assert not (tmp_path / "ett").exists()
