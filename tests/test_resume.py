"""The same run again: stopped, damaged, continued, or another one."""

import os
import signal
import time

import jax
import jax.numpy as jnp
import pytest
from runs import arrays, assert_same_arrays, rows, start, status, tiny

from experiments import configuration, data, metrics, run
from experiments.checkpoints import Checkpoints


def stop_at(process, workdir, step, number):
    """Sends signal `number` when `workdir` has a row of `step` or later; returns the output."""
    while process.poll() is None:
        path = workdir / "metrics.jsonl"
        if path.exists() and any(f'"step": {step},' in row for row in rows(workdir)):
            process.send_signal(number)
            break
        time.sleep(0.002)
    return process.communicate(timeout=120)[0]


@pytest.fixture(scope="module")
def undisturbed_process(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed_process")
    process = start(workdir)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    return workdir


@pytest.mark.parametrize(
    ("number", "code", "ended"),
    [
        (signal.SIGKILL, -9, "running"),
        pytest.param(signal.SIGTERM, 75, "interrupted", marks=pytest.mark.slow),
    ],
)
def test_the_same_command_ends_a_stopped_run_with_the_same_bytes(
    undisturbed_process, tmp_path, number, code, ended
):
    process = start(tmp_path)
    output = stop_at(process, tmp_path, 12, number)
    assert process.returncode == code, output
    assert status(tmp_path)["status"] == ended
    assert status(tmp_path)["step"] < 60
    if number == signal.SIGTERM:
        assert "run the same command to resume" in output
        stopped = status(tmp_path)["step"]
        assert (tmp_path / "checkpoints" / str(stopped)).is_dir()
    process = start(tmp_path)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    assert "Resuming from step" in output
    assert status(tmp_path)["status"] == "done"
    assert rows(tmp_path) == rows(undisturbed_process)
    assert_same_arrays(arrays(tmp_path), arrays(undisturbed_process))


@pytest.mark.parametrize(("number", "step"), [(signal.SIGINT, 4), (signal.SIGTERM, 7)])
def test_a_signal_saves_the_step_it_came_in(undisturbed, tmp_path, monkeypatch, number, step):
    batch = data.batch

    def batch_with_signal(split, size, seed, i, *rest):
        if i == step - 1:
            os.kill(os.getpid(), number)
        return batch(split, size, seed, i, *rest)

    monkeypatch.setattr("experiments.data.batching.batch", batch_with_signal)
    with pytest.raises(metrics.Interrupted) as stopped:
        run.train(tiny(), tmp_path)
    assert stopped.value.signal_number == number
    assert status(tmp_path) | {"seconds": 0} == {
        "status": "interrupted",
        "step": step,
        "steps": 12,
        "seconds": 0,
    }
    monkeypatch.undo()
    state = run.train(tiny(), tmp_path)
    assert_same_arrays(state, undisturbed[1])
    assert rows(tmp_path) == rows(undisturbed[0])


def test_a_finished_run_is_not_trained_again(undisturbed, tmp_path):
    workdir, state = undisturbed
    before = rows(workdir)
    assert_same_arrays(run.train(tiny(), workdir), state)
    assert rows(workdir) == before


def test_more_steps_continue_a_finished_run(undisturbed, tmp_path):
    run.train(tiny(steps=6), tmp_path)
    assert_same_arrays(run.train(tiny(), tmp_path), undisturbed[1])
    # Beside the rows of the last step that it had.
    assert set(rows(tmp_path)[1:]) > set(rows(undisturbed[0])[1:])


@pytest.mark.parametrize("damage", ["arrays", "record", "all"])
def test_an_unreadable_checkpoint_gives_way_to_the_one_before(
    undisturbed, tmp_path, caplog, damage
):
    run.train(tiny(), tmp_path)
    for step in (10, 12) if damage == "all" else (12,):
        broken = "meta" if damage == "record" else "state"
        for path in (tmp_path / "checkpoints" / str(step) / broken).rglob("*"):
            if path.is_file():
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    if damage == "all":
        with pytest.raises(configuration.ConfigurationError, match="none of the checkpoints"):
            run.train(tiny(), tmp_path)
        return
    with caplog.at_level("WARNING", logger="absl"):
        state = run.train(tiny(), tmp_path)
    assert "Checkpoint of step 12 cannot be read" in caplog.text
    assert (tmp_path / "unreadable_checkpoints" / "12").is_dir()
    assert_same_arrays(state, undisturbed[1])
    assert rows(tmp_path) == rows(undisturbed[0])


@pytest.mark.parametrize("record", ["config.json", "checkpoint"])
@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"model__width": 16}, "model.width: 8 there, 16 now"),
        ({"optimizer__name": "sgd"}, "optimizer.name: 'adam' there, 'sgd' now"),
        ({"constraint__map": "exponential"}, "constraint.map: 'cayley' there, 'exponential' now"),
        ({"seed": 1}, "seed: 0 there, 1 now"),
        ({"steps": 6}, "steps: 12 there, 6 now"),
    ],
)
def test_another_run_in_the_same_workdir_is_an_error_that_names_the_difference(
    undisturbed, overrides, named, record
):
    workdir, _ = undisturbed
    stored = (workdir / "config.json").read_text()
    if record == "checkpoint":
        (workdir / "config.json").unlink()
    before = rows(workdir)
    try:
        with pytest.raises(configuration.ConfigurationError) as error:
            run.train(tiny(**overrides), workdir)
    finally:
        (workdir / "config.json").write_text(stored)
    assert named in str(error.value)
    assert "--workdir" in str(error.value)
    assert "\n" not in str(error.value)
    assert rows(workdir) == before


def test_a_checkpoint_of_other_shapes_is_an_error_that_names_them(undisturbed):
    workdir, state = undisturbed
    target = jax.eval_shape(lambda: state)
    params = target.params | {"extra": jax.ShapeDtypeStruct((2,), jnp.float32)}
    params["head"] = {"kernel": jax.ShapeDtypeStruct((4, 10), jnp.float32)}
    with (
        Checkpoints(
            workdir / "checkpoints", tiny(), data.load("mnist_5k").fingerprint()
        ) as checkpoints,
        pytest.raises(configuration.ConfigurationError) as error,
    ):
        checkpoints.restore(lambda layout: target._replace(params=params))
    assert "params/extra: nothing there, float32[2] now" in str(error.value)
    assert "params/head/kernel: float32[8, 10] there, float32[4, 10] now" in str(error.value)
