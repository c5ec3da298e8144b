"""What models are trained for: the measures, forecasting, and stopping by validation."""

import dataclasses
import os
import signal

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from runs import TINY, assert_same_arrays, rows, status, tiny

from experiments import configuration, data, metrics, models, run, tasks
from experiments.configs import quickstart

HISTORY, HORIZON, CHANNELS, MARKS = 6, 4, 3, 2


class Linear(nnx.Module):
    """Forecasts each channel linearly from its history and the marks of the future."""

    def __init__(self, history, horizon, channels, marks, *, width, rngs):
        self.embed = nnx.Linear(history, width, rngs=rngs)
        self.head = nnx.Linear(width, horizon, rngs=rngs)
        self.marks = nnx.Linear(marks, channels, rngs=rngs)

    def __call__(self, inputs):
        by_channel = self.head(self.embed(inputs["past"].swapaxes(1, 2)))
        return by_channel.swapaxes(1, 2) + self.marks(inputs["future_marks"])


@dataclasses.dataclass
class Windows:
    inputs: dict
    targets: np.ndarray

    def __len__(self):
        return len(self.targets)

    def take(self, indices):
        return {name: x[indices] for name, x in self.inputs.items()}, self.targets[indices]


def windows(count, seed, sign=1.0):
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.normal(size=(count, *shape)).astype(np.float32)
    inputs = {"past": normal(HISTORY, CHANNELS), "future_marks": normal(HORIZON, MARKS)}
    return Windows(inputs, sign * (inputs["past"][:, :HORIZON] + 0.1 * normal(HORIZON, CHANNELS)))


def forecast_run(**overrides):
    """A tiny run on series, of 40 steps; `optimizer__lr=0.1` sets optimizer.lr."""
    config = quickstart.get_config()
    config.model = {"name": "linear", "width": 8}
    config.data = {"name": "ettm2", "dir": "", "augment": "none", "history": 6, "horizon": 4}
    config.constraint.rules = (("embed/kernel", "orthogonal"), (".*", "free"))
    fields = TINY | {"steps": 40, "eval_batch_size": 16, "optimizer.lr": 0.03}
    fields |= {key.replace("__", "."): value for key, value in overrides.items()}
    fields = {k: v for k, v in fields.items() if k not in ("arms", "model.depth")}
    config.arms = {}
    config.update_from_flattened_dict(fields)
    (arm,) = configuration.arms(config).values()
    return arm


@pytest.fixture
def series(monkeypatch):
    """Series in which validation has the opposite sign: what is learnt makes it worse."""
    arguments = {"history": HISTORY, "horizon": HORIZON, "channels": CHANNELS, "marks": MARKS}
    train, validation, test = windows(50, 0), windows(19, 1, sign=-1.0), windows(21, 2)
    dataset = data.Dataset("ettm2", "forecasting", train, validation, test, arguments)
    monkeypatch.setattr(data, "load", lambda name, folder, history, horizon: dataset)
    monkeypatch.setitem(models.MODELS, "linear", Linear)
    return dataset


def evaluations(workdir):
    return [r for r in metrics.read(workdir / "metrics.jsonl")[1] if "test_loss" in r]


# Measures.


def test_label_smoothing_is_cross_entropy_to_the_mixed_distribution_in_training_only():
    dataset = data.load("mnist_5k")
    logits = np.random.default_rng(0).normal(size=(5, 4))
    labels = np.array([0, 3, 1, 1, 2])
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    hard = -log_p[np.arange(5), labels]
    task = tasks.classification(dataset, 0.1)
    smoothed = 0.9 * hard - 0.1 * log_p.mean(axis=1)
    np.testing.assert_allclose(task.loss(jnp.asarray(logits), labels), smoothed, rtol=1e-5)
    measured = {k: measure(jnp.asarray(logits), labels) for k, measure in task.measures.items()}
    np.testing.assert_allclose(measured["loss"], hard, rtol=1e-5)
    np.testing.assert_array_equal(measured["accuracy"], logits.argmax(axis=1) == labels)
    plain = tasks.classification(dataset, 0.0).loss(jnp.asarray(logits), labels)
    np.testing.assert_allclose(plain, hard, rtol=1e-5)


# Forecasting.


@pytest.mark.parametrize("parallel", ["jit", "pmap"])
def test_forecasting_logs_squared_and_absolute_errors_over_all_windows(tmp_path, series, parallel):
    state = run.train(forecast_run(parallel=parallel), tmp_path)
    params, last = state.params, evaluations(tmp_path)[-1]
    for name, split in (("validation", series.validation), ("test", series.test)):
        past = np.swapaxes(split.inputs["past"], 1, 2)
        hidden = past @ params["embed"]["kernel"] + params["embed"]["bias"]
        forecasts = np.swapaxes(hidden @ params["head"]["kernel"] + params["head"]["bias"], 1, 2)
        future = split.inputs["future_marks"] @ params["marks"]["kernel"]
        error = np.float64(forecasts + future + params["marks"]["bias"] - split.targets)
        assert last[f"{name}_loss"] == pytest.approx((error**2).mean(), rel=1e-5)
        assert last[f"{name}_mae"] == pytest.approx(np.abs(error).mean(), rel=1e-5)
    assert last["test_loss"] < 0.5 * evaluations(tmp_path)[0]["test_loss"]
    trained = [r for r in metrics.read(tmp_path / "metrics.jsonl")[1] if "train_mae" in r]
    assert trained[-1]["train_loss"] < 0.5 * trained[0]["train_loss"]
    assert "train_accuracy" not in trained[-1]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"data__augment": "crop_flip"}, "data.augment=crop_flip .*ettm2.* set data.augment=none"),
        ({"label_smoothing": 0.1}, "label_smoothing=0.1 .*ettm2.* set label_smoothing=0.0"),
        ({"data__horizon": 0}, "data.horizon must be a positive int, got 0"),
    ],
)
def test_what_series_cannot_have_is_one_line(tmp_path, series, overrides, words):
    with pytest.raises(configuration.ConfigurationError, match=words):
        run.train(forecast_run(**overrides), tmp_path)


def test_a_model_of_other_data_is_an_error_that_names_both(tmp_path, monkeypatch):
    monkeypatch.setitem(models.MODELS, "linear", Linear)
    config = tiny().copy_and_resolve_references()
    config.model = {"name": "linear", "width": 8}
    with pytest.raises(configuration.ConfigurationError) as error:
        run.train(config, tmp_path / "new")
    assert "model.name=linear is made from history, horizon, channels, marks" in str(error.value)
    assert "data.name=mnist_5k, for classification, has image_shape, num_class" in str(error.value)
    assert not (tmp_path / "new").exists()


# Stopping by validation.


def test_a_run_ends_when_validation_has_not_improved_for_that_long(tmp_path, series, capsys):
    run.train(forecast_run(patience=2), tmp_path)
    assert [row["step"] for row in evaluations(tmp_path)] == [0, 4, 8, 12]
    assert status(tmp_path) | {"seconds": 0} == {
        "status": "done",
        "step": 12,
        "steps": 40,
        "seconds": 0,
        "message": "stopped early at step 12",
    }
    said = capsys.readouterr().out.splitlines()
    assert said[-2] == "stopped early at step 12"
    best = evaluations(tmp_path)[1]
    assert said[-1].startswith("best validation: step  4/40  ")
    assert f"test loss {best['test_loss']:.4f}  test mae {best['test_mae']:.4f}" in said[-1]
    before = rows(tmp_path)
    run.train(forecast_run(patience=2), tmp_path)  # It has ended.
    assert rows(tmp_path) == before
    run.train(forecast_run(patience=3), tmp_path)  # Until now.
    assert [row["step"] for row in evaluations(tmp_path)] == [0, 4, 8, 12, 16]
    assert rows(tmp_path)[: len(before)] == before


def test_patience_goes_on_where_an_interrupted_run_was(tmp_path, series, monkeypatch):
    whole = run.train(forecast_run(patience=2), tmp_path / "whole")
    batch = data.batch

    def batch_with_signal(split, size, seed, step, *rest):
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch(split, size, seed, step, *rest)

    with monkeypatch.context() as patched:
        patched.setattr("experiments.data.batching.batch", batch_with_signal)
        with pytest.raises(metrics.Interrupted):
            run.train(forecast_run(patience=2), tmp_path / "parts")
    assert_same_arrays(run.train(forecast_run(patience=2), tmp_path / "parts"), whole)
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


def test_patience_without_a_validation_split_is_an_error(tmp_path):
    with pytest.raises(configuration.ConfigurationError, match=r"patience=3 .*mnist_5k lacks"):
        run.train(tiny(patience=3), tmp_path / "new")
