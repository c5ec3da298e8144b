"""The benchmark at tiny sizes, without its peers: that it measures what it says."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import benchmark

from benchmarks import devices, figures, inputs, maps, report, steps, targets, timing

TINY = benchmark.QUICK._replace(
    effort=timing.Effort(rounds=3, seconds=0.01, sample_seconds=1e-5),
    squares=(6, 8),
    step_squares=(),
    others=((2, 4, 4),),
    methods=("cayley",),
    steps=(("cayley", "retract"), ("pogo", "cubic")),
    accuracy_n=8,
)
GROUPS = ("maps", "steps", "accuracy")


class Clock:
    """In the place of the module `time`: it goes on when a program says so."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    def taking(self, name, seconds, unit=None):
        def call():
            self.now += seconds

        program = timing.Program(call, lambda: {"fact": name})
        return timing.Case("group", name, "orthojax", (2, 2), lambda: program, unit=unit)


def failing(error):
    def make():
        raise error

    return timing.Case("group", "fails", "peer", (2, 2), make)


def test_ratios_are_those_of_the_times_and_what_fails_says_why(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    cases = [
        clock.taking("short", 0.002, unit="short"),
        clock.taking("long", 0.02),
        failing(timing.Skipped("too slow")),
        failing(NotImplementedError("no bfloat16\nat all")),
    ]
    short, long, skipped, failed = timing.measure(cases, timing.Effort(6, 0.05, 1e-3))
    assert long["seconds"]["median"] == pytest.approx(0.02)
    assert long["ratio"]["short"]["q3"] == pytest.approx(10)
    assert short["ratio"]["short"] == {"median": 1.0, "q1": 1.0, "q3": 1.0}
    assert short["turns"] == 6  # The unit sits out no round,
    assert long["turns"] == timing.LEAST_TURNS  # a slow program those after its time.
    assert long["fact"] == "long"
    assert skipped["skipped"] == "too slow"
    assert failed["error"] == "NotImplementedError: no bfloat16"
    assert "seconds" not in skipped
    assert "seconds" not in failed


@pytest.mark.parametrize("shape", [(5, 5), (7, 3), (2, 4, 4)], ids=str)
@pytest.mark.parametrize("method", ["exponential", "cayley", "householder"])
def test_oracles_are_orthonormal_and_their_problem_has_a_slope(method, shape):
    at = inputs.problem(method, shape)
    assert inputs.orthogonality_error(at.w) < 1e-13
    oracle, h = inputs.ORACLES[method], 1e-3
    change = oracle(at.theta + h * at.direction) - oracle(at.theta - h * at.direction)
    np.testing.assert_allclose(np.sum(at.cotangent * change) / (2 * h), at.slope, rtol=1e-4)
    if method != "householder" and len(shape) == 2:
        norm = np.linalg.norm(inputs.dense(at.theta), 2)
        np.testing.assert_allclose(norm, inputs.NORM, rtol=0.02)


@pytest.mark.parametrize("shape", [(6, 6), (7, 3)], ids=str)
def test_every_map_gives_the_value_and_the_gradient_of_its_oracle(shape):
    for case in maps.cases(shape, ("cayley", "householder")):
        program = case.make()
        program.call()
        found = program.measures()
        assert found["relative_error"] < 2e-6, case
        assert found["gradient_error"] < 2e-5, case
        assert found["orthogonality_error"] < 2e-6, case


def test_a_wrong_gradient_is_seen():
    at = inputs.problem("cayley", (6, 6))
    wrong = np.random.default_rng(5).standard_normal((6, 6))
    assert at.measures(at.w, wrong)["gradient_error"] > 0.01


def test_a_step_donates_and_compares_its_first_result_with_float64():
    (case,) = steps.cases((8, 4), [("pogo", "cubic")], largest_exact=32)
    program = case.make()
    for _ in range(3):
        program.call()
    found = program.measures()
    assert 0 < found["relative_error"] < 1e-6
    assert found["orthogonality_error"] < 1e-6
    assert found["state_copies"] == 0


@pytest.fixture(scope="module")
def record():
    return benchmark.run(TINY, GROUPS, with_torch=False, log=lambda line: None)


def test_a_run_has_every_case_of_its_groups_and_none_fails(record):
    assert not [row for row in record["rows"] if "error" in row or "skipped" in row]
    measured = {(row["group"], row["shape"]) for row in record["rows"]}
    assert {("maps", (n, n)) for n in TINY.squares} <= measured
    assert {(group, (2, 4, 4)) for group in ("maps", "steps", "unit")} <= measured
    for row in record["rows"]:
        if row["group"] in ("maps", "steps"):
            assert row["ratio"]["jax"]["median"] > 0
            assert row["compile_seconds"] > 0


@pytest.mark.slow
def test_updates_and_rotations_are_measured():
    plan = TINY._replace(updates=((6, 4),), rotations=4)
    record = benchmark.run(plan, ("updates", "rotations"), with_torch=False, log=lambda line: None)
    assert not [row for row in record["rows"] if "error" in row or "skipped" in row]
    methods = {row["method"] for row in record["rows"]}
    assert {"manifold muon", "muon", "spectral cap", "nearest"} <= methods


def test_the_report_is_written_drawn_and_read_again(record, tmp_path):
    paths = report.write(record, tmp_path) + figures.draw(record["rows"], tmp_path)
    names = {path.name for path in paths}
    assert names == {"results.json", "report.md", "time_against_n.png"}
    assert all(path.stat().st_size > 0 for path in paths)
    read = json.loads((tmp_path / "results.json").read_text())
    assert len(read["rows"]) == len(record["rows"])
    assert read["versions"]["jax"] == jax.__version__
    text = (tmp_path / "report.md").read_text()
    for heading in (*GROUPS, "unit", "targets"):
        assert f"\n## {heading}\n" in text


def test_targets_are_reached_or_not_by_the_rows_and_unmeasured_without(record):
    lines = {line["id"]: line for line in record["targets"]}
    assert lines["exponential-error"]["reached"]
    assert lines["householder"]["reached"] is None

    def row(implementation, seconds):
        return {
            **{"group": "steps", "method": "pogo", "implementation": implementation},
            **{"variant": "cubic", "shape": (1024, 16, 16), "dtype": "float32"},
            **{"seconds": {"median": seconds}, "ratio": {"jax": {"median": 4.0}}},
        }

    for ours, is_reached in ((0.4, True), (0.6, False)):
        rows = [row("orthojax", ours), row("pogo", 1.0)]
        (line,) = [line for line in targets.table(rows) if line["id"] == "batch"]
        assert line["measured"] == pytest.approx(ours)
        assert line["reached"] is is_reached


def test_layers_over_devices_share_the_operations_without_a_collective():
    rows = devices.rows(16, 8, [("pogo", "cubic")], counts=(1, 4), layouts=["layers"], turns=1)
    alone, shared = (row for row in rows if row["implementation"] == "orthojax")
    assert (alone["devices"], shared["devices"]) == (1, 4)
    assert shared["flops"] < 0.3 * alone["flops"]
    assert shared["collectives"].keys() <= {"all-reduce"}  # Of the norm of the largest step.


def test_an_unknown_group_is_an_error_that_lists_them(capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["--groups", "map"])
    assert "got 'map'" in capsys.readouterr().err
