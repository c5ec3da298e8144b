"""What a sweep consists of, and mistakes in it."""

import sys
from pathlib import Path

import pytest
from sweep_runs import ROOT, begin, made, sweep_file

from experiments import configuration
from experiments.configs import mnist_5k_sweep, oialr_mnist_5k_sweep
from experiments.sweeps import files, plan
from experiments.sweeps.points import (
    chained,
    digest,
    draws,
    grid,
    product,
    varying,
    zipped,
)


def test_lists_of_points_combine():
    a, b = grid("a", [1, 2]), grid("b", "xy")
    assert product(a, b) == [{"a": i, "b": j} for i in (1, 2) for j in "xy"]
    assert zipped(a, b) == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    assert chained(a, grid("a", [2, 3])) == [{"a": 1}, {"a": 2}, {"a": 3}]
    assert chained(product(a, b), zipped(a, b)) == product(a, b)
    with pytest.raises(ValueError, match=r"\[2, 1\]"):
        zipped(a, grid("b", [1]))
    with pytest.raises(ValueError, match="two of the sweeps set a"):
        product(a, a)


def test_draws_repeat_extend_and_are_uniform_in_the_logarithm():
    found = draws("optimizer.lr", 400, 1e-4, 1e-1, log=True, seed=3)
    assert found == draws("optimizer.lr", 400, 1e-4, 1e-1, log=True, seed=3)
    assert found[:10] == draws("optimizer.lr", 10, 1e-4, 1e-1, log=True, seed=3)
    assert found != draws("optimizer.lr", 400, 1e-4, 1e-1, log=True, seed=4)
    values = sorted(point["optimizer.lr"] for point in found)
    assert values[0] >= 1e-4
    assert values[-1] <= 1e-1
    for i, edge in enumerate((1e-3, 1e-2), 1):  # A third of them in each decade: 400 p, +- 4 sd.
        assert sum(x < edge for x in values) == pytest.approx(400 * i / 3, abs=38)
    one, other = (draws(key, 50, 0.0, 1.0) for key in ("a", "b"))
    assert [p["a"] for p in one] != [p["b"] for p in other]
    whole = {p["n"] for p in draws("n", 60, 1, 3, whole=True)}
    assert whole == {1, 2, 3}
    assert all(isinstance(n, int) for n in whole)
    with pytest.raises(ValueError, match="0 < low"):
        draws("a", 1, 0.0, 1.0, log=True)


def test_the_name_of_a_point_depends_on_its_overrides_only(tmp_path):
    overrides = {"optimizer.lr": 1e-3, "model.name": "mlp", "seeds": (0, 1)}
    backwards = dict(reversed(overrides.items()))
    assert digest(overrides) == digest(backwards) == "ab5fd5752f0c"  # In every process.
    assert digest(overrides) != digest(overrides | {"optimizer.lr": 1.1e-3})
    points = made(tmp_path, {"a": 1, "c": 2}, {"a": 1, "b": 3})
    assert varying(points) == ["c", "b"]
    assert varying(points[:1]) == ["a", "c"]


# Sweeps of configuration files.


def test_a_sweep_becomes_commands_that_can_be_typed(tmp_path):
    sweep = 'product(grid("optimizer.lr", [1, 3e-3]), grid("seed", [5]))'
    config, points = plan.load(sweep_file(tmp_path, sweep), tmp_path, {"arms": {}})
    assert len(config.arms) == 0
    assert [p.overrides for p in points] == [
        {"arms": {}, "optimizer.lr": 1.0, "seed": 5},  # The type of the field.
        {"arms": {}, "optimizer.lr": 0.003, "seed": 5},
    ]
    assert all(p.folder == tmp_path / "points" / digest(p.overrides) for p in points)
    assert list(points[1].command) == [
        sys.executable,
        str(ROOT / "experiments" / "run.py"),
        f"--config={tmp_path / 'own.py'}",
        f"--workdir={points[1].folder}",
        "--config.arms={}",
        "--config.optimizer.lr=0.003",
        "--config.seed=5",
    ]
    assert not (tmp_path / "points").exists()


def test_a_sweep_has_the_argument_of_its_configuration(tmp_path):
    file = sweep_file(tmp_path, 'grid("model.width", [int(depth), 8])', 'depth="2"')
    config, points = plan.load(f"{file}:7", tmp_path)
    assert config.model.depth == 7
    assert [p.overrides["model.width"] for p in points] == [7, 8]
    assert f"--config={file}:7" in points[0].command


@pytest.mark.parametrize("module", [mnist_5k_sweep, oialr_mnist_5k_sweep])
def test_the_sweeps_of_this_repository_can_be_right(tmp_path, module):
    _, points = plan.load(module.__file__, tmp_path)
    assert len(points) in (12, 13)
    assert len({point.name for point in points}) == len(points)


@pytest.mark.parametrize(
    ("sweep", "words"),
    [
        ('grid("optimizer.lrr", [1.0])', ["point 0", "optimizer.lrr", "nearest: optimizer.lr"]),
        ('grid("lr", [1.0])', ["nearest: optimizer.lr"]),
        ('grid("steps", [10, "many"])', ["point 1", "steps must be int, got 'many'"]),
        ('grid("optimizer", [1])', ["optimizer is a section"]),
        ('grid("constraint.map", ["cayly"])', ["point 0", "nearest: cayley"]),
        ('grid("optimizer.warmup_steps", [5000])', ["optimizer.warmup_steps=5000"]),
        ("[]", ["no points"]),
        ("3", ["list of dicts, got 3"]),
    ],
)
def test_a_mistake_in_a_sweep_is_one_line_before_anything_runs(tmp_path, sweep, words):
    with pytest.raises(configuration.ConfigurationError) as error:
        plan.load(sweep_file(tmp_path, sweep), tmp_path / "new")
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)
    assert not (tmp_path / "new").exists()


def test_a_configuration_without_a_sweep_says_what_to_write(tmp_path):
    with pytest.raises(configuration.ConfigurationError, match=r"no get_sweep\(\); e\.g\."):
        plan.load(str(ROOT / "experiments" / "configs" / "quickstart.py"), tmp_path)


def test_points_of_another_version_of_the_file_are_refused_and_longer_ones_go_on(tmp_path):
    file = sweep_file(tmp_path, 'grid("seed", [0])')
    same = {"arms": {}, "optimizer.schedule": "constant"}
    (point,) = plan.load(file, tmp_path, same)[1]
    assert begin(point, file, same) == "done"
    longer = Path(file).read_text().replace("    return c\n", "    c.steps = 900\n    return c\n")
    Path(file).write_text(longer)
    plan.load(file, tmp_path, same)
    assert files.ended(point.folder) is None
    Path(file).write_text(longer.replace("int(depth)", "3"))
    with pytest.raises(configuration.ConfigurationError, match=r"model\.depth: 2 there, 3 now"):
        plan.load(file, tmp_path, same)
