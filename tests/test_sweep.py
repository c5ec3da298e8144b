"""Sweeps: their points, their programs, and that every point ends exactly once.

The programs are `sweep_program.py`, which stands in for run.py, but for one real sweep.
"""

import csv
import importlib.util
import json
import os
import pickle
import signal
import subprocess
import sys
import threading

import pytest
from sweep_runs import ROOT, begun, codes, made, sweep_file, until

from experiments import configuration
from experiments.sweeps import cores, engines, files, live, reporting, running, search
from experiments.sweeps.points import (
    Point,
    grid,
    product,
)


def test_cores_are_shared_out():
    assert cores.shares(2, [0, 1, 2, 3]) == [[0, 1], [2, 3]]
    assert cores.shares(2, [4, 5, 6]) == [[4], [5, 6]]
    assert cores.shares(3, [0, 1]) == [[0], [1], [0]]
    assert cores.shares(2, []) == [[], []]


def test_cores_that_are_taken_are_not_given_twice(monkeypatch, tmp_path):
    monkeypatch.setattr(cores, "available", lambda: [0, 1, 2])
    monkeypatch.setattr(cores.tempfile, "gettempdir", lambda: str(tmp_path))
    one, locks = cores.take(2)
    assert one == [0, 1]
    assert cores.take(2) == ([], [])
    other, more = cores.take(1)
    assert other == [2]
    cores.release(locks)
    assert cores.take(2)[0] == [0, 1]
    cores.release(more)


# Points and their programs.


def quietly():
    pass


def test_points_end_as_they_should_and_are_not_run_again(tmp_path):
    kinds = ["good", "crash once", "crash", "diverge", "preempted", "mistake"]
    points = made(tmp_path, *grid("model.name", kinds))
    ends = engines.run_local(points, quietly, workers=6, retries=1, every=0.02)
    by_kind = {p.overrides["model.name"]: p for p in points}
    assert {kind: ends[p.name] for kind, p in by_kind.items()} == {
        "good": "done",
        "crash once": "done",
        "crash": "failed",
        "diverge": "diverged",
        "preempted": "done",
        "mistake": "failed",
    }
    assert {kind: codes(p) for kind, p in by_kind.items()} == {
        "good": [0],
        "crash once": [1, 0],
        "crash": [1, 1],
        "diverge": [1],
        "preempted": [75, 75, 75, 75, 0],  # No failures.
        "mistake": [2],  # Trying again would not help.
    }
    again = engines.run_local(points, quietly, workers=6, retries=0, every=0.02)
    assert again == ends
    assert begun(by_kind["good"]) == begun(by_kind["diverge"]) == 1
    assert begun(by_kind["crash"]) == 3
    troubles = reporting.troubles(points)
    assert "out of luck" in troubles
    assert by_kind["crash"].name in troubles
    assert by_kind["good"].name not in troubles
    assert files.record(by_kind["good"].folder)["command"] == list(by_kind["good"].command)


def test_a_program_that_does_nothing_between_preemptions_fails(tmp_path):
    (point,) = made(tmp_path, {})
    stuck = Point({}, point.folder, (sys.executable, "-c", "import sys; sys.exit(75)"))
    assert running.finish(stuck, retries=0, every=0.02) == "failed"
    assert codes(stuck) == [75, 75]


def test_two_sweeps_at_once_run_no_point_twice(tmp_path):
    points = made(tmp_path, *grid("optimizer.lr", [1.0, 2.0, 3.0, 4.0, 5.0]))
    ends = []

    def sweep(own):
        ends.append({p.name: running.finish(p, every=0.02) for p in own})

    threads = [threading.Thread(target=sweep, args=(own,)) for own in (points, points[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [set(own.values()) for own in ends] == [{"done"}, {"done"}]
    assert [begun(point) for point in points] == [1] * 5


SWEEP = """
import pickle, sys
from experiments.sweeps import engines
points = pickle.load(open(sys.argv[1], "rb"))
engines.run_local(points, lambda: None, workers=1, every=0.02)
assert "jax" not in sys.modules
"""


def sweep_program(points, path):
    path.write_bytes(pickle.dumps(points))
    return subprocess.Popen([sys.executable, "-c", SWEEP, str(path)], cwd=ROOT)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_sweep_that_is_stopped_leaves_nothing_running_and_goes_on(tmp_path, number):
    points = made(tmp_path, *grid("model.name", ["wait", "good"]))
    process = sweep_program(points, tmp_path / "points.pkl")
    until(lambda: (points[0].folder / "saved").exists(), 60)
    process.send_signal(number)
    process.wait(20)
    until(lambda: not files.is_locked(points[0].folder))  # Linux tells the orphan to save.
    assert files.state(points[0].folder) == (
        "stopped" if number == signal.SIGTERM else "interrupted"
    )
    assert not points[1].folder.exists()
    (points[0].folder / "go.txt").touch()
    ends = engines.run_local(points, quietly, workers=1, every=0.02)
    assert set(ends.values()) == {"done"}
    assert [begun(point) for point in points] == [2, 1]
    steps = [json.loads(x)["step"] for x in (points[0].folder / "metrics.jsonl").open()]
    assert steps == [1, 2, 3, 4, 5, 6]  # It went on where it was saved.


def test_a_child_that_is_killed_is_tried_again(tmp_path):
    (point,) = made(tmp_path, {"model.name": "wait"})
    runner = running.Runner(point, retries=1)
    assert runner.start()
    until(lambda: (point.folder / "saved").exists())
    os.kill(int((point.folder / "began.txt").read_text()), signal.SIGKILL)
    until(lambda: runner.poll() or begun(point) == 2)
    (point.folder / "go.txt").touch()
    until(runner.poll)
    assert runner.poll() == "done"
    assert codes(point) == [-9, 0]
    assert not files.is_locked(point.folder)


def test_one_point_by_its_number(tmp_path, monkeypatch):
    points = made(tmp_path, *grid("model.name", ["good", "crash", "preempted"]))
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    assert engines.run_index(points, None) == ("done", 0)
    assert engines.run_index(points, 1, retries=0) == ("failed", 70)
    assert engines.run_index(points, 2) == ("preempted", 75)  # The array runs it again.
    assert codes(points[2]) == [75]
    one, other = made(tmp_path / "hosts", *grid("model.name", ["good", "preempted"]))
    assert engines.run_index([one], 0, host=1) == ("done", 0)
    assert (one.folder / "log_1.txt").read_text().startswith("step 1")
    assert engines.run_index([other], 0, host=1) == ("preempted", 75)
    with pytest.raises(ValueError, match="points 0 to 2"):
        engines.run_index(points, 3)
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID")
    with pytest.raises(ValueError, match="SLURM_ARRAY_TASK_ID or JOB_COMPLETION_INDEX"):
        engines.run_index(points, None)
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "2")
    assert engines.point_number(None, 3) == 2


# What is reported.


def test_the_table_has_every_point_and_the_figure_those_that_ended(tmp_path, capsys):
    sweep = product(grid("optimizer.lr", [1.0, 2.0]), grid("seed", [0, 1]))
    points = made(tmp_path, *sweep, {"optimizer.lr": 3.0, "seed": 0, "model.name": "crash"})
    with live.Watch(points, every=0.0) as watch:
        engines.run_local(points, watch, workers=3, retries=0, every=0.02)
    said = capsys.readouterr().out
    assert "[5/5] " in said
    assert all(point.name in said for point in points)
    assert "failed (it ended with code 1)" in said
    table = reporting.rows(points)
    assert [row["state"] for row in table] == ["done"] * 4 + ["failed"]
    assert table[-1]["step"] == 3  # The last evaluation before it failed.
    for point, row in zip(points[:4], table, strict=False):
        lr, seed = point.overrides["optimizer.lr"], point.overrides["seed"]
        assert row["test_loss"] == pytest.approx(lr * (1 + 0.1 * seed) / 7)
    reporting.write(table, tmp_path / "results.csv")
    written = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert [row["point"] for row in written] == [point.name for point in points]
    figure = reporting.frontier(points, table, tmp_path)
    assert figure.stat().st_size > 10_000
    assert points[-1].name in reporting.text(points, table)
    with pytest.raises(configuration.ConfigurationError, match="nearest: test_loss"):
        reporting.frontier(points, table, tmp_path, y="test_los")


def test_the_frontier_is_what_nothing_else_beats(tmp_path):
    costs = [(0.5, 0.9), (0.2, 0.8), (0.3, 0.7), (1.0, 0.85), (0.2, 0.6)]
    assert reporting.unbeaten(costs, max) == [(0.2, 0.8), (0.5, 0.9)]
    assert reporting.unbeaten(costs, min) == [(0.2, 0.6)]


# Search.


def test_a_trial_reports_the_mean_of_its_seeds_and_its_end_last(tmp_path):
    points = made(tmp_path, *product(grid("optimizer.lr", [2.0]), grid("seed", [0, 1])))
    assert search.trials(points) == [points]
    trial = search.Trial(points, steps=6, cpus=0)
    told = []
    while not told or not told[-1]["over"]:
        told.append(trial.next())
    assert [one["trained"] for one in told] == [1, 2, 3, 4, 5, 6]
    assert [one["score"] for one in told] == pytest.approx([2.1 / (1 + t) for t in range(1, 7)])
    assert [files.ended(point.folder) for point in points] == ["done", "done"]
    again = search.Trial(points, steps=6, cpus=0)  # Told from its files.
    assert [again.next()["trained"] for _ in range(6)] == [1, 2, 3, 4, 5, 6]
    assert [begun(point) for point in points] == [1, 1]


def test_a_trial_that_is_stopped_is_saved_and_can_go_on(tmp_path):
    (point,) = made(tmp_path, {"model.name": "wait"})
    trial = search.Trial([point], steps=6, cpus=0)
    assert trial.next()["trained"] == 1
    trial.stop()
    assert files.state(point.folder) == "stopped"
    assert live.look(point)["message"] == search.STOPPED
    (point.folder / "go.txt").touch()
    assert running.finish(point, every=0.02) == "done"


def test_a_trial_that_fails_ends_as_the_worst(tmp_path):
    (point,) = made(tmp_path, {"model.name": "crash"})
    trial = search.Trial([point], steps=6, cpus=0, retries=0)
    told = [trial.next() for _ in range(4)]
    assert told[-1] == {"trained": 3, "score": float("inf"), "over": True}


has_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray")


@pytest.mark.slow
@has_ray
def test_by_ray_points_end_as_on_this_machine_and_a_killed_worker_is_replaced(tmp_path):
    points = made(tmp_path, *grid("model.name", ["wait", "good", "crash", "crash once"]))
    waiting = points[0].folder

    killed = []

    def kill():
        if (waiting / "saved").exists() and not killed:
            parent = files.holder(waiting).split()[0]
            os.kill(int(parent), signal.SIGKILL)
            killed.append(parent)
        if killed and begun(points[0]) == 2:
            (waiting / "go.txt").touch()

    ends = engines.run_ray(points, kill, workers=2, retries=1)
    assert [ends[point.name] for point in points] == ["done", "done", "failed", "done"]
    assert [begun(point) for point in points] == [2, 1, 2, 2]


@pytest.mark.parametrize("hosts", [1, 4])
def test_the_manifests_for_pods_run_the_point_of_each_job(hosts, capsys):
    yaml = pytest.importorskip("yaml")
    spec = importlib.util.spec_from_file_location("commands", ROOT / "scripts/tpu/commands.py")
    commands = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(commands)
    for way in ("xpk", "vm", "gke"):
        commands.main([way, "--config=c.py", "--points=3", f"--hosts={hosts}"])
        said = capsys.readouterr().out
        assert said.startswith("# Not run.")
        assert "scripts/sweep.py run --config=c.py --workdir=/runs/sweep --engine=index" in said
    manifests = list(yaml.safe_load_all(said.split("<<'END'\n")[1].removesuffix("END\n")))
    if hosts == 1:
        (job,) = (manifest["spec"] for manifest in manifests)
        assert job["completions"] == 3
        indices = [""]
    else:
        jobs = [m["spec"]["replicatedJobs"][0]["template"]["spec"] for m in manifests]
        assert [job["completions"] for job in jobs] == [4, 4, 4]
        indices = [f" --index={i} --host=$JOB_COMPLETION_INDEX" for i in range(3)]
        job = jobs[-1]
    command = job["template"]["spec"]["containers"][0]["command"][2]
    assert command.endswith("--engine=index" + indices[-1])


# The program itself.


@pytest.mark.slow
def test_a_real_sweep_of_two_points(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")  # One device.
    steps = ["--config.steps=4", "--config.eval_every=4", "--config.model.depth=2"]
    file = sweep_file(tmp_path, 'grid("optimizer.lr", [1e-3, 1e30])')
    command = [sys.executable, str(ROOT / "scripts" / "sweep.py"), "run", f"--config={file}"]
    command += [f"--workdir={tmp_path / 'w'}", "--config.arms={}", "--workers=2", *steps]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 1, done.stderr
    rows = list(csv.DictReader((tmp_path / "w" / "results.csv").open()))
    assert [row["state"] for row in rows] == ["done", "diverged"]
    assert "diverged: " in done.stdout
    assert float(rows[0]["test_accuracy"]) > 0.05
    assert (tmp_path / "w" / "frontier.png").exists()
