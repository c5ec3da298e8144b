"""The table of results, from folders written by hand."""

import csv
import json
import re

import numpy as np
import pytest

from experiments import results

SIZES = {"trainable": 0.5, "stored": 0.25, "served": 0.125}


def write(folder, rows, timing=(), seed=0, status="done"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "status.json").write_text(json.dumps({"status": status}))
    (folder / "config.json").write_text(json.dumps({"seed": seed}))
    for name, lines in (("metrics", [{"config": {}}, *rows]), ("timing", timing)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text)
    return folder


def test(step, loss, **others):
    return {"step": step, "test_loss": loss, "test_accuracy": 1 - loss, **others}


test.__test__ = False


def test_a_run_comes_to_its_last_evaluation_and_the_sizes_of_then(tmp_path):
    later = SIZES | {"stored": 0.2}
    rows = [test(0, 0.9), {"step": 4, "low_rank": SIZES}, {"step": 8, "low_rank": later}]
    folder = write(tmp_path / "run", [*rows, {"step": 8, "train_loss": 0.1}, test(8, 0.3)])
    expected = {"step": 8, "test_loss": 0.3, "test_accuracy": 0.7, **later}
    assert results.collect(folder) == expected


def test_with_a_validation_split_it_comes_to_the_best_one_since_it_is_of_low_rank(tmp_path):
    validated = [
        test(step, loss / 2, validation_loss=loss)
        for step, loss in ((0, 0.9), (4, 0.2), (8, 0.6), (12, 0.4), (16, 0.5))
    ]
    found = results.collect(write(tmp_path / "dense", validated))
    assert (found["step"], found["test_loss"], found["validation_loss"]) == (4, 0.1, 0.2)
    assert [found[name] for name in SIZES] == [1, 1, 1]
    changes = [
        {"step": step, "low_rank": SIZES | {"stored": x}} for step, x in ((4, 0.3), (14, 0.2))
    ]
    rows = [*validated[:2], changes[0], *validated[2:4], changes[1], validated[4]]
    found = results.collect(write(tmp_path / "low", rows))
    assert (found["step"], found["test_loss"], found["stored"]) == (12, 0.2, 0.3)


def test_a_run_that_was_never_evaluated_comes_to_nothing(tmp_path):
    folder = write(tmp_path / "run", [{"step": 1, "train_loss": 1.0}])
    assert results.collect(folder) == {}


def test_time_and_flops_are_sums_over_all_programs_and_processes(tmp_path):
    timing = [
        {"program_at": 0, "compile_seconds": 2.0, "flops": 100.0, "memory_bytes": 3_000_000},
        {"phase_from": 0, "steps": 4, "seconds_per_step": 0.5},
        {"change_at": 4, "seconds": 1.5},
        {"program_at": 4, "compile_seconds": 1.0, "flops": 10.0, "memory_bytes": 1_000_000},
        {"phase_from": 4, "steps": 3, "seconds_per_step": 0.1},
        {"program_at": 7, "compile_seconds": 0.25, "flops": 10.0, "memory_bytes": 1_000_000},
        {"change_at": 8, "seconds": 0.5},
        {"phase_from": 7, "steps": 2, "seconds_per_step": 0.2},
    ]
    found = results.collect(write(tmp_path / "run", [test(9, 0.3)], timing))
    assert found["programs"] == 3
    assert found["train_flops"] == 4 * 100 + 5 * 10
    assert found["step_flops"] == 10
    assert found["memory_mb"] == 1
    assert found["seconds_per_step"] == 0.2
    assert found["train_seconds"] == pytest.approx(4 * 0.5 + 3 * 0.1 + 2 * 0.2)
    assert found["change_seconds"] == 2
    assert found["compile_seconds"] == pytest.approx(3.25, abs=0.06)
    for row in timing[::3]:
        row["flops"] = None  # A backend that does not tell.
    found = results.collect(write(tmp_path / "other", [test(9, 0.3)], timing))
    assert np.isnan(found["train_flops"])


@pytest.fixture
def rows(tmp_path):
    timing = [
        {"program_at": 0, "compile_seconds": 2.0, "flops": 1e6, "memory_bytes": 3_000_000},
        {"phase_from": 0, "steps": 4, "seconds_per_step": 0.5},
    ]
    small = {"step": 2, "low_rank": SIZES}
    folders = {
        "dense": [
            write(tmp_path / "dense" / f"seed_{i}", [test(4, loss)], timing, seed=i)
            for i, loss in ((3, 0.25), (5, 0.75))
        ],
        "low": [write(tmp_path / "low", [small, test(4, 0.125)], timing)],
        "wild": [write(tmp_path / "wild", [], status="diverged")],
    }
    return results.write(folders, tmp_path)


def test_the_table_is_written_with_a_row_an_arm_and_seed(rows, tmp_path):
    with (tmp_path / "results.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [{k: str(x) for k, x in row.items()} for row in rows] == [
        {k: x for k, x in row.items() if x} for row in written
    ]
    columns = ("arm", "seed", "status", "test_loss", "stored", "train_flops")
    assert [tuple(row[name] for name in columns) for row in written] == [
        ("dense", "3", "done", "0.25", "1.0", "4000000.0"),
        ("dense", "5", "done", "0.75", "1.0", "4000000.0"),
        ("low", "0", "done", "0.125", "0.25", "4000000.0"),
        ("wild", "0", "diverged", "", "", ""),
    ]


def test_the_printed_table_has_means_over_seeds_and_deviations_of_what_is_tested(rows):
    lines = results.table(rows).splitlines()
    names = ["test_loss", "test_accuracy", *SIZES, "step_flops", "seconds_per_step", "memory_mb"]
    assert [re.sub(" {2,}", "|", line) for line in lines] == [
        "|".join(["arm", *names]),
        "dense|0.5000 ± 0.3536|50.00% ± 35.36%|100.0%|100.0%|100.0%|1e+06|0.5|3",
        "low|0.1250|87.50%|50.0%|25.0%|12.5%|1e+06|0.5|3",
        "wild|-|-|-|-|-|-|-|-",
    ]
    columns = [[match.end() for match in re.finditer(" {2,}", line)] for line in lines]
    assert columns[1:] == [columns[0]] * 3


def test_one_dense_run_without_arms_is_a_line_without_sizes(tmp_path):
    rows = results.write({"": [write(tmp_path, [test(4, 0.5)])]}, tmp_path)
    assert results.table(rows).splitlines() == [
        "arm  test_loss  test_accuracy",
        "-    0.5000     50.00%",
    ]


def test_spread_is_the_mean_and_the_sample_deviation():
    values = [1.0, 4.0, 2.5, 7.0]
    expected = np.mean(values), np.std(values, ddof=1)
    np.testing.assert_allclose(results.spread(values), expected)
    assert results.spread([3.0]) == (3.0, 0.0)
