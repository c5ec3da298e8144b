"""OIALR in the experiment runner: the same run stopped, on other devices, and diverging."""

import json
import os
import shutil
import signal

import jax.numpy as jnp
import numpy as np
import pytest
from oialr_runs import (
    alone,
    layout,
    logged,
    trunk_of,
    use_devices,
    weights,
    written,
)
from runs import LOW_RANK, arrays, assert_same_arrays, rows, status, tiny

from experiments import configuration, data, metrics, optimizers, run

pytestmark = pytest.mark.usefixtures("one_device")


# Resuming.


def interrupt_at(monkeypatch, step):
    """Sends SIGTERM while the batch of `step` is made, the last that is done."""
    batch = data.batch

    def batch_with_signal(split, size, seed, i, *rest):
        if i == step - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch(split, size, seed, i, *rest)

    monkeypatch.setattr("experiments.data.batching.batch", batch_with_signal)


@pytest.mark.parametrize(
    ("name", "steps"),
    # Before, at and after the conversion; at and after a change of shapes.
    [
        pytest.param("OIALR", (3, 4, 5, 6, 9), marks=pytest.mark.slow),
        *(("OIALR", (4, 9)), ("grow", (8,)), ("latent", (4,)), ("all", (6,))),
    ],
)
def test_a_stopped_run_ends_with_the_same_bytes(forked, tmp_path, monkeypatch, name, steps):
    config, trunk = alone(name, fork_at=4), None if name == "OIALR" else trunk_of(forked)
    for step in steps:
        interrupt_at(monkeypatch, step)
        with pytest.raises(metrics.Interrupted):
            run.train(config, tmp_path, trunk=trunk)
        monkeypatch.undo()
        assert status(tmp_path)["step"] == step
    run.train(config, tmp_path, trunk=trunk)
    assert_same_arrays(arrays(tmp_path, 16), arrays(forked / name, 16))
    # Without a trunk, what is evaluated after step 4 is of low rank.
    found, expected = (
        [row for row in written(folder) if trunk or '{"step": 4, "test_loss"' not in row]
        for folder in (tmp_path, forked / name)
    )
    assert found == expected


def test_a_checkpoint_of_other_ranks_is_an_error_that_names_them_and_loses_nothing(
    forked, tmp_path
):
    workdir = tmp_path / "copy"
    shutil.copytree(forked / "OIALR", workdir)
    record = workdir / "checkpoints" / "16" / "meta" / "metadata"
    meta = json.loads(record.read_text())
    before = rows(workdir)
    for columns, words in (
        (meta["layout"] | {"head/kernel": 3}, "bases/head/kernel/u: float32[16, 2] there, "),
        (meta["layout"] | {"head/kernel": 11}, "'head/kernel' lie between 1 and 10, got 11"),
        ({"embed/kernel": 3}, "embed/kernel"),
        ({}, "bases/head/kernel/rank: int32[] there, nothing now"),
    ):
        record.write_text(json.dumps(meta | {"layout": columns}))
        with pytest.raises(configuration.ConfigurationError) as error:
            run.train(alone("OIALR", fork_at=4), workdir)
        assert words in str(error.value)
        assert "\n" not in str(error.value)
        assert rows(workdir) == before
        assert (workdir / "checkpoints" / "16" / "state").exists()
    assert not (workdir / "unreadable_checkpoints").exists()


# Devices.


@pytest.mark.parametrize(("parallel", "count"), [("jit", 8), ("pmap", 2)])
def test_any_number_of_devices_gives_the_same_ranks_and_weights(
    forked, tmp_path, monkeypatch, parallel, count
):
    use_devices(monkeypatch, count)
    config = alone("OIALR", parallel=parallel, fork_at=4)
    run.train(config, tmp_path, until=6, trunk=trunk_of(forked))
    found, expected = (arrays(folder, 6) for folder in (tmp_path, forked / "OIALR"))
    assert layout(tmp_path, 6) == layout(forked / "OIALR", 6)
    for name, w in weights(expected).items():
        assert found["bases"][name]["rank"] == expected["bases"][name]["rank"]
        np.testing.assert_allclose(weights(found)[name], w, atol=2e-5)
    for step, loss in logged(tmp_path, "train_loss").items():
        assert loss == pytest.approx(logged(forked / "OIALR", "train_loss")[step], rel=1e-5)


# What is not finite.


@pytest.mark.parametrize(("delay", "bad"), [(1 / 16, 0), (0.0, 1)])  # The first, a later change.
def test_a_run_whose_weights_are_not_finite_at_a_change_has_diverged(
    tmp_path, monkeypatch, delay, bad
):
    schedule = optimizers.make_schedule
    monkeypatch.setattr(
        optimizers,
        "make_schedule",
        lambda *args: lambda step: jnp.where(step == bad, jnp.inf, schedule(*args)(step)),
    )
    rarely = {"log_every": 16, "checkpoint_every": 16, "oialr.stability_every": 0}
    with pytest.raises(metrics.Diverged, match=f"update_norm is inf at step {bad + 1}, "):
        run.train(tiny(LOW_RANK | rarely, oialr__delay=delay), tmp_path)
    assert status(tmp_path)["status"] == "diverged"
    assert not list((tmp_path / "checkpoints").iterdir())
    assert len(logged(tmp_path, "low_rank")) == (0 if delay else 1)
