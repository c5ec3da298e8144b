"""Time to the optimum: problems against NumPy and SciPy, arms that reach it, the clock, errors."""

import csv

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes

from experiments import configuration, studies
from experiments.configs import pca, procrustes
from experiments.configuration import ConfigurationError
from experiments.studies import optimality, torch_optimizers
from experiments.studies.stiefel_problems import PROBLEMS, make_problem

SMALL = {
    "study.rows": 6,
    "study.columns": 3,
    "study.condition": 10.0,
    "study.dtype": "float64",
    "study.gap": 1e-9,
    "study.max_steps": 200,
    "study.evaluate_every": 20,
}


def small(preset=pca, **overrides):
    """A preset in small; `study__rows=5` sets study.rows, `arms` is replaced as a whole."""
    config = preset.get_config()
    changed = {field.replace("__", "."): value for field, value in overrides.items()}
    config.arms = changed.pop("arms", {})
    config.update_from_flattened_dict(SMALL | changed)
    return config


def table(workdir):
    with (workdir / "results.csv").open() as file:
        return list(csv.DictReader(file))


def arm(name, lr, momentum=0.0):
    return {"optimizer": {"name": name, "lr": lr, "momentum": momentum}}


# Problems.


@pytest.mark.parametrize("name", ["pca", "pca_published"])
def test_the_optimum_of_pca_is_half_the_sum_of_the_leading_eigenvalues(name):
    problem = make_problem(name, 9, 4, 1000.0, 3)
    (a,) = problem.constants
    values, vectors = np.linalg.eigh(a)
    assert problem.optimum == pytest.approx(-values[-4:].sum() / 2, rel=1e-12)
    assert problem.loss((a,), vectors[:, -4:]) == pytest.approx(problem.optimum, rel=1e-12)
    if name == "pca":
        assert values[-1] / values[0] == pytest.approx(1000, rel=1e-9)
    else:
        assert values[0] < 0


@pytest.mark.parametrize("shape", [(7, 7), (8, 5)], ids=str)
def test_the_optimum_of_procrustes_is_the_orthogonal_factor(shape):
    n, p = shape
    problem = make_problem("procrustes", n, p, 1.0, 4)
    a, b = problem.constants
    if n == p:
        w = orthogonal_procrustes(a.T, b.T)[0].T
        assert np.linalg.det(w) * np.linalg.det(problem.start) > 0
    else:
        values, vectors = np.linalg.eigh((c := b @ a.T).T @ c)
        w = c @ (vectors / np.sqrt(values)) @ vectors.T
    assert problem.loss((a, b), w) == pytest.approx(problem.optimum, rel=1e-12)
    assert problem.optimum == pytest.approx(np.linalg.norm(w @ a - b) ** 2 / (2 * p), rel=1e-12)


@pytest.mark.parametrize("name", PROBLEMS)
def test_gradients_are_those_of_the_losses(name, x64):
    problem = make_problem(name, 6, 3, 10.0, 5)
    np.testing.assert_allclose(problem.start.T @ problem.start, np.eye(3), atol=1e-14)
    expected = jax.jit(jax.grad(problem.loss, argnums=1))(problem.constants, problem.start)
    actual = problem.gradient(problem.constants, problem.start)
    np.testing.assert_allclose(actual, expected, atol=1e-13)


# Arms.


def test_momentum_along_the_manifold_is_carried_by_projection(x64):
    rng = np.random.default_rng(0)
    first, second = (np.linalg.qr(rng.standard_normal((5, 2)))[0] for _ in range(2))
    g, h = rng.standard_normal((2, 5, 2))

    def projected(w, x):
        return x - w @ (w.T @ x + x.T @ w) / 2

    tx = optimality._tangent_momentum(0.8)
    m, state = tx.update(g, tx.init(jnp.asarray(first)), first)
    np.testing.assert_allclose(m, projected(first, g), atol=1e-14)
    m, _ = tx.update(h, state, second)
    expected = projected(second, h) + 0.8 * projected(second, projected(first, g))
    np.testing.assert_allclose(m, expected, atol=1e-14)


def test_all_arms_reach_the_optimum_and_are_reported(tmp_path, capsys):
    arms = {
        "POGO": arm("pogo", 0.25, 0.3),
        "POGO along": arm("pogo_tangent", 0.1, 0.5),
        "landing": arm("landing_tangent", 0.1, 0.5),
        "retraction": arm("qr", 0.1, 0.5),
    }
    studies.run(small(arms=arms), tmp_path)
    rows = table(tmp_path)
    for name in arms:
        own = [row for row in rows if row["arm"] == name]
        steps = [int(row["step"]) for row in own]
        assert steps == [*range(21), *range(40, steps[-1] + 1, 20)]
        assert 0 <= float(own[-1]["gap"]) <= 1e-9 < float(own[-2]["gap"])
        seconds = [float(row["seconds"]) for row in own]
        assert seconds[0] == 0
        assert seconds == sorted(seconds)
        errors = [float(row["orthogonality_error"]) for row in own]
        assert max(errors) < (0.5 if name == "landing" else 0.02)
        assert errors[-1] < 1e-5
    assert (tmp_path / "optimality.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert printed.count("1 of 1") == len(arms)
    assert "u a step" in printed


def test_float32_reaches_a_gap_that_is_measured_in_float64(tmp_path):
    config = small(procrustes, study__dtype="float32", **{"study__gap": 1e-9})
    config.optimizer = arm("pogo_tangent", 0.3, 0.6)["optimizer"]
    studies.run(config, tmp_path)
    assert 0 <= float(table(tmp_path)[-1]["gap"]) <= 1e-9


@pytest.mark.parametrize("name", optimality.METHODS)
def test_every_method_makes_steps_of_the_type_of_the_weights(name):
    w = jax.ShapeDtypeStruct((6, 3), jnp.float32)
    tx = optimality.METHODS[name](0.1, 0.5)
    state = jax.eval_shape(tx.init, w)
    updates, after = jax.eval_shape(tx.update, w, state, w)
    assert (updates.shape, updates.dtype) == (w.shape, w.dtype)
    assert jax.tree.structure(after) == jax.tree.structure(state)


# The clock.


class Imagined:
    """Gap 2^-step; each step takes 3 s, all that is between steps 100 s."""

    def __init__(self):
        self.now, self.step = 0.0, 0

    def clock(self):
        return self.now

    def advance(self, steps):
        self.now += 3 * steps
        self.step += steps

    def weights(self):
        return self.step

    def evaluate(self, step):
        self.now += 100
        return (0.5**step if step < 9 else np.nan), 0.0

    def unit(self):
        self.now += 1.5


@pytest.mark.parametrize(
    ("gap", "most", "expected"),
    [(1e-1, 9, [0, 1, 2, 3, 6]), (1e-3, 8, [0, 1, 2, 3, 6, 8]), (1e-3, 99, [0, 1, 2, 3, 6, 9])],
)
def test_steps_alone_are_timed_until_the_gap_the_last_step_or_no_number(gap, most, expected):
    run = Imagined()
    study = small(study__gap=gap, study__max_steps=most, study__evaluate_every=3).study
    rows = list(optimality._descend(run, study, run.clock, run.evaluate, run.unit))
    assert [row["step"] for row in rows] == expected
    assert [row["seconds"] for row in rows] == [3 * step for step in expected]
    assert {row["unit_seconds"] for row in rows} == {1.5}


def test_a_run_that_diverges_has_no_gap():
    problem = make_problem("pca", 6, 3, 10.0, 0)
    evaluate = optimality._make_evaluate(problem)
    assert np.isnan(evaluate(np.full((6, 3), np.inf))).all()
    w = np.linalg.eigh(problem.constants[0])[1][:, -3:]
    gap, error = evaluate(1.1 * w)  # Below the optimum, were it not for the nearest one.
    assert gap == pytest.approx(0, abs=1e-12)
    assert error == pytest.approx(0.21 * 3**0.5)


# Packages that may not be there.


def test_arms_without_their_packages_are_left_out(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch_optimizers.importlib.util, "find_spec", lambda name: None)
    arms = {"here": arm("pogo", 0.25, 0.3), "not here": arm("geoopt", 0.1)}
    studies.run(small(arms=arms, study__max_steps=2), tmp_path)
    assert {row["arm"] for row in table(tmp_path)} == {"here"}
    printed = capsys.readouterr().out
    assert "Left out: optimizer.name=geoopt needs torch: pip install" in printed
    assert "0 of 1" in printed


@pytest.mark.parametrize("name", torch_optimizers.METHODS)
def test_peers_make_the_same_steps_where_they_are_the_same_method(name):
    pytest.importorskip(torch_optimizers.METHODS[name][0])
    config = small(procrustes)
    config.optimizer = arm(name, 0.1)["optimizer"]
    problem = make_problem("procrustes", 6, 3, 10.0, 0)
    peer = torch_optimizers.Descent(config, problem)
    peer.advance(2)
    config.optimizer.name = {"pogo_torch": "pogo_cubic", "geoopt": "qr"}[name]
    with jax.enable_x64(True):
        own = optimality.Descent(config, problem)
        own.advance(2)
    np.testing.assert_allclose(peer.weights(), own.weights(), atol=1e-6)


# Errors and presets.


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"study__problem": "procrust"}, ["study.problem", "nearest: procrustes"]),
        ({"study__dtype": "float16"}, ["study.dtype", "float32"]),
        ({"optimizer__name": "pogo_torsh"}, ["optimizer.name", "pogo_torch"]),
        ({"optimizer__lr": 0.0}, ["optimizer.lr must be positive", "0.0"]),
        ({"optimizer__momentum": 1.0}, ["optimizer.momentum", "[0, 1)", "1.0"]),
        ({"study__columns": 6}, ["study.columns", "study.rows=6", "6"]),
        ({"preset": procrustes, "study__columns": 7}, ["study.columns", "study.rows=6", "7"]),
        ({"study__condition": 0.5}, ["study.condition", "0.5"]),
        ({"study__gap": 0.0}, ["study.gap must be positive"]),
        ({"seeds": ()}, ["seeds"]),
    ],
)
def test_mistakes_name_the_field(overrides, words, tmp_path):
    with pytest.raises(ConfigurationError) as refused:
        studies.run(small(**overrides), tmp_path)
    for word in words:
        assert word in str(refused.value)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("preset", "size", "shape"),
    [
        (pca, "small", (500, 375)),
        (pca, "published", (500, 375)),
        (pca, "full", (2000, 1500)),
        (procrustes, "small", (500, 375)),
        (procrustes, "full", (2000, 2000)),
    ],
)
def test_presets_have_both_sides(preset, size, shape):
    arms = configuration.arms(preset.get_config(size), studies.check)
    names = {own.optimizer.name for own in arms.values()}
    assert {"pogo", "pogo_tangent", "qr", "pogo_torch", "geoopt"} <= names
    assert {(own.study.rows, own.study.columns) for own in arms.values()} == {shape}
