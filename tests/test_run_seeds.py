"""Models of several seeds in one program, and what is measured of deep ones."""

import csv

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import arrays, assert_same_arrays, experiment, rows, status, tiny

from experiments import configuration, depth_figures, metrics, run, training

pytestmark = pytest.mark.usefixtures("one_device")

SEEDS = (0, 3)
OVERRIDES = {"checkpoint_every": 4, "seeds": SEEDS, "vmap_seeds": True}


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    from oialr_runs import use_devices

    workdir = tmp_path_factory.mktemp("together")
    with pytest.MonkeyPatch.context() as patch:
        use_devices(patch, 1)
        return workdir, run.train(tiny(**OVERRIDES), workdir, seeds=SEEDS)


def test_models_trained_together_are_those_trained_alone(together, tmp_path):
    workdir, state = together
    for i, seed in enumerate(SEEDS):
        own = jax.tree.map(lambda x, i=i: x[i], state.params)
        alone = run.train(tiny(seed=seed, checkpoint_every=4), tmp_path / str(seed))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), own, alone.params
        )
        folder = workdir / f"seed_{seed}"
        assert status(folder)["status"] == "done"
        one, other = (metrics.read(f / "metrics.jsonl")[1] for f in (tmp_path / str(seed), folder))
        assert [list(row) for row in one] == [list(row) for row in other]
        for a, b in zip(*map(configuration.flatten, (one[-1], other[-1])), strict=True):
            assert a == b
        np.testing.assert_allclose(other[-1]["test_loss"], one[-1]["test_loss"], rtol=1e-4)
        stored = metrics.read(folder / "metrics.jsonl")[0]["config"]
        assert (stored["seed"], stored["seeds"]) == (seed, [])


def test_they_are_resumed_together_bitwise(together, tmp_path):
    workdir, _ = together
    run.train(tiny(**OVERRIDES), tmp_path, until=4, seeds=SEEDS)
    run.train(tiny(**OVERRIDES), tmp_path, seeds=SEEDS)
    for seed in SEEDS:
        own, other = (rows(folder / f"seed_{seed}")[-6:] for folder in (workdir, tmp_path))
        assert own == other  # All rows after step 4, where the first part has logged once more.
    assert_same_arrays(arrays(workdir, 12), arrays(tmp_path, 12))


def test_a_model_that_diverges_leaves_the_others_to_go_on(together, tmp_path, monkeypatch):
    workdir, _ = together
    whole = training.init_state

    def init_state(model, optimizer, seed, *rest):
        state = whole(model, optimizer, seed, *rest)
        broken = jnp.where(seed == SEEDS[0], jnp.nan, 1.0)
        return state._replace(params=jax.tree.map(lambda x: x * broken, state.params))

    monkeypatch.setattr(training, "init_state", init_state)
    with pytest.raises(metrics.Diverged, match="is nan at step 0"):
        run.train(tiny(**OVERRIDES), tmp_path, seeds=SEEDS)
    assert [status(tmp_path / f"seed_{seed}")["status"] for seed in SEEDS] == ["diverged", "done"]
    for name, folder in (("kept", workdir), ("other", tmp_path)):
        found = metrics.read(folder / f"seed_{SEEDS[1]}" / "metrics.jsonl")[1]
        assert found[-1]["step"] == 12, name


def test_an_experiment_of_seeds_together_writes_a_table_and_the_figure_against_a_field(
    tmp_path, capsys
):
    arms = {f"net, {depth}": {"model": {"depth": depth}} for depth in (2, 3)}
    config = experiment(steps=4, arms=arms, against="model.depth", **OVERRIDES)
    run.run(config, tmp_path)
    with (tmp_path / "results.csv").open() as file:
        table = list(csv.DictReader(file))
    found = [(row["arm"], row["seed"], row["model.depth"]) for row in table]
    assert found == [(f"net, {d}", str(seed), str(d)) for d in (2, 3) for seed in SEEDS]
    assert (tmp_path / "accuracy.png").stat().st_size > 10_000
    assert "(mean of 2 seeds)" in capsys.readouterr().out


def test_arms_named_by_their_value_are_points_of_one_curve():
    assert depth_figures.line_of("tanh, k = 0.4, 50", 50) == "tanh, k = 0.4"
    assert depth_figures.line_of("50", 50) == "50"
    assert depth_figures.against([{"test_accuracy": 1.0}], "", ".") == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"parallel": "pmap"}, "needs parallel=jit, got pmap"),
        ({"patience": 2}, "needs patience=0, got 2"),
        ({"fork_at": 3}, "needs fork_at=0, got 3"),
        ({"seeds": ()}, r"vmap_seeds needs seeds, e.g. \(0, 1, 2\)"),
        ({"against": "model.dept"}, "unknown name 'model.dept'; nearest: model.depth"),
        ({"population": -1}, "population must not be negative, got -1"),
        ({"profile": {"every": 0, "kernels": ".*"}}, "profile.every must be positive, got 0"),
        ({"profile": {"every": 1, "kernels": "("}}, "profile.kernels: .* is not"),
    ],
)
def test_options_that_do_not_go_together_are_errors(overrides, message):
    with pytest.raises(configuration.ConfigurationError, match=message):
        configuration.arms(experiment(**(OVERRIDES | overrides)))
