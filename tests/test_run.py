"""What a run writes, how it fails, and many devices."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from runs import TINY, status, tiny

from experiments import configuration, data, metrics, models, optimizers, run, training
from experiments.configs import quickstart
from experiments.parallel import PARALLEL

# What a run writes.


def test_a_run_of_two_arms_writes_its_files_for_each_and_joint_figures(tmp_path, capsys):
    config = quickstart.get_config()
    assert set(config.arms) == {"orthogonal", "unconstrained"}
    config.update_from_flattened_dict({k: v for k, v in TINY.items() if k != "arms"})
    run.run(config, tmp_path)
    for arm, constrained in (("orthogonal", True), ("unconstrained", False)):
        workdir = tmp_path / arm
        assert status(workdir)["status"] == "done"
        assert status(workdir)["step"] == 12
        stored = json.loads((workdir / "config.json").read_text())
        assert stored["constraint"]["map"] == ("cayley" if constrained else "none")
        assert stored["arms"] == {}
        header, written = metrics.read(workdir / "metrics.jsonl")
        assert header["config"] == stored
        assert set(header["versions"]) == {"python", "jax", "flax", "optax", "orthojax"}
        assert [r["step"] for r in written if "train_loss" in r] == [3, 6, 9, 12]
        assert [r["step"] for r in written if "test_loss" in r] == [0, 4, 8, 12]
        errors = written[-1]["orthogonality_error"]
        assert set(errors) == {"hidden_0/kernel", "hidden_1/kernel"}
        assert all((error < 1e-5) == constrained for error in errors.values())
        assert list((workdir / "tensorboard").glob("events.out.tfevents*"))
    for figure in ("learning", "orthogonality", "singular_values"):
        assert (tmp_path / f"{figure}.png").stat().st_size > 10_000
        assert str(tmp_path / f"{figure}.png") in capsys.readouterr().out or figure != "learning"


def test_tensorboard_reads_the_logged_numbers(undisturbed):
    workdir, _ = undisturbed
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for path in (workdir / "tensorboard").glob("events.out.tfevents*"):
        content, position = path.read_bytes(), 0
        while position < len(content):  # TFRecord: length, its checksum, data, its checksum.
            length = int.from_bytes(content[position : position + 8], "little")
            event = Event.FromString(content[position + 12 : position + 12 + length])
            found |= {(v.tag, event.step): v.simple_value for v in event.summary.value}
            position += 16 + length
    for row in metrics.read(workdir / "metrics.jsonl")[1]:
        if "test_loss" in row:
            assert found["test_loss", row["step"]] == pytest.approx(row["test_loss"])


def test_logged_train_loss_is_the_mean_over_the_steps_since_the_last(undisturbed, tmp_path):
    run.train(tiny(log_every=1), tmp_path)
    each = [r for r in metrics.read(tmp_path / "metrics.jsonl")[1] if "train_loss" in r]
    mean = [r for r in metrics.read(undisturbed[0] / "metrics.jsonl")[1] if "train_loss" in r]
    for i, row in enumerate(mean):
        for name in ("train_loss", "train_accuracy", "update_norm"):
            expected = np.mean([r[name] for r in each[3 * i : 3 * i + 3]])
            assert row[name] == pytest.approx(expected, rel=1e-5)


def test_evaluation_counts_each_test_image_once(undisturbed):
    workdir, state = undisturbed
    dataset = data.load("mnist_5k")
    model = training.make_model(tiny(), dataset)
    module = nnx.merge(model.eval, state.params, state.variables)
    logits = np.asarray(module(model.task.preprocess(dataset.test.images)), np.float64)
    correct = logits.argmax(-1) == dataset.test.labels
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    loss = -log_p[np.arange(len(log_p)), dataset.test.labels].mean()
    last = metrics.read(workdir / "metrics.jsonl")[1][-1]
    assert last["test_accuracy"] == pytest.approx(correct.mean(), abs=1e-9)
    assert last["test_loss"] == pytest.approx(loss, rel=1e-5)


def test_a_run_traces_its_model_once_for_training_and_once_for_evaluation(tmp_path, monkeypatch):
    traced = []

    class Counted(models.MLP):
        def __call__(self, images):
            traced.append(images.shape[0])
            return super().__call__(images)

    monkeypatch.setitem(models.MODELS, "mlp", Counted)
    run.train(tiny(), tmp_path)
    assert sorted(traced) == [16, 80]


def test_batch_statistics_are_carried_from_step_to_step(monkeypatch):
    class Normalized(nnx.Module):
        def __init__(self, image_shape, num_classes, *, rngs):
            self.norm = nnx.BatchNorm(image_shape[-1], momentum=0.9, rngs=rngs)
            self.head = nnx.Linear(np.prod(image_shape), num_classes, rngs=rngs)

        def __call__(self, images):
            return self.head(self.norm(images).reshape(images.shape[0], -1))

    monkeypatch.setitem(models.MODELS, "normalized", Normalized)
    config = tiny(constraint__map="none").copy_and_resolve_references()
    config.model = {"name": "normalized"}
    dataset = data.load("mnist_5k")
    model, optimizer = training.make_model(config, dataset), optimizers.make_optimizer(config)
    step = jax.jit(training.make_train_step(config, model, optimizer))
    state = training.init_state(model, optimizer, 0)
    expected = 0.0
    for i in range(2):
        images, labels = data.batch(dataset.train, 16, 0, i)
        state, _ = step(state, images, labels)
        normalized = (images / 255.0 - dataset.mean) / dataset.std
        expected = 0.9 * expected + 0.1 * normalized.mean()
    np.testing.assert_allclose(state.variables["norm"]["mean"], [expected], rtol=1e-4)


def test_a_run_without_kernels_to_constrain_measures_none(tmp_path):
    rules = ((".*", "free"),)
    run.train(tiny(constraint__map="none", constraint__rules=rules, steps=4), tmp_path)
    assert metrics.read(tmp_path / "metrics.jsonl")[1][-1].keys() == {
        "step",
        "test_loss",
        "test_accuracy",
    }


# The learning rate.


@pytest.mark.parametrize(
    ("schedule", "period", "expected"),
    [
        ("constant", 0, [1.0] * 8),
        ("cosine", 0, [0.5 + 0.5 * np.cos(np.pi * i / 8) for i in range(8)]),
        ("warm_restarts", 4, [1.0, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5] * 2),
        ("step_decay", 3, [1.0] * 3 + [0.5] * 3 + [0.25] * 2),
        ("tenth_decay", 3, [1.0] * 3 + [0.1] * 3 + [0.01] * 2),
    ],
)
def test_the_learning_rate_of_each_step(schedule, period, expected):
    fields = {"optimizer__schedule": schedule, "optimizer__period": period, "optimizer__lr": 1.0}
    rate = optimizers.make_schedule(tiny(steps=8, **fields))
    np.testing.assert_allclose([rate(i) for i in range(8)], expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(jax.vmap(rate))(jnp.arange(8)), expected, rtol=1e-5)
    warm = optimizers.make_schedule(tiny(steps=10, optimizer__warmup_steps=2, **fields))
    np.testing.assert_allclose([warm(i) for i in range(10)], [0.5, 0.75, *expected], rtol=1e-5)


# When training fails.


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_a_diverging_run_names_the_steps_and_keeps_no_bad_checkpoint(tmp_path, name):
    with pytest.raises(metrics.Diverged, match="at step 1, all was finite at step 0"):
        run.train(tiny(optimizer__lr=1e30, optimizer__name=name, checkpoint_every=1), tmp_path)
    assert status(tmp_path)["status"] == "diverged"
    assert status(tmp_path)["step"] == 1
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_run_that_diverges_late_keeps_its_last_finite_checkpoint(tmp_path, monkeypatch):
    schedule = optimizers.make_schedule
    monkeypatch.setattr(
        optimizers,
        "make_schedule",
        lambda *args: lambda step: jnp.where(step == 7, jnp.inf, schedule(*args)(step)),
    )
    with pytest.raises(metrics.Diverged) as error:
        run.train(tiny(), tmp_path)
    assert "at step 8, all was finite at step 6" in str(error.value)
    assert status(tmp_path)["status"] == "diverged"
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["5"]


def test_one_diverging_arm_does_not_stop_the_other(tmp_path):
    config = quickstart.get_config()
    config.update_from_flattened_dict({k: v for k, v in TINY.items() if k != "arms"})
    config.arms = {"wild": {"optimizer": {"lr": 1e30}}, "tame": {}}
    with pytest.raises(metrics.Diverged, match="wild: "):
        run.run(config, tmp_path)
    assert status(tmp_path / "wild")["status"] == "diverged"
    assert status(tmp_path / "tame")["status"] == "done"
    assert (tmp_path / "learning.png").exists()


# Many devices.


@pytest.mark.parametrize("constraint", ["cayley", pytest.param("none", marks=pytest.mark.slow)])
def test_jit_and_pmap_on_eight_devices_and_one_device_give_the_same_losses(tmp_path, constraint):
    assert jax.local_device_count() == 8
    config = tiny(constraint__map=constraint)
    dataset = data.load("mnist_5k")
    model, optimizer = training.make_model(config, dataset), optimizers.make_optimizer(config)

    def step_of(axis):
        return training.make_train_step(config, model, optimizer, axis)

    losses, finals = [], []
    for kind in ("jit", "pmap", "one device"):
        state = jax.jit(lambda: training.init_state(model, optimizer, 0))()
        if kind == "one device":
            put, step = lambda *batch: batch, jax.jit(step_of(None))
            gather = lambda state: state
        else:
            devices = PARALLEL[kind]()
            put = functools.partial(devices.put, 16)
            step, gather = devices.compile_step(step_of), devices.gather
            state = devices.spread(devices.put_state(state))
        losses.append([])
        for i in range(6):
            state, loss = step(state, *put(*data.batch(dataset.train, 16, 0, i)))
            losses[-1].append(float(jnp.mean(loss)))
        finals.append(jax.device_get(gather(state)))
    np.testing.assert_allclose(losses[1:], [losses[0]] * 2, rtol=2e-6)
    for final in finals[1:]:
        assert int(final.step) == 6
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5),
            final.params,
            finals[0].params,
        )


def test_a_run_by_pmap_logs_the_numbers_of_jit_and_resumes_it(undisturbed, tmp_path):
    run.train(tiny(steps=6), tmp_path)
    run.train(tiny(parallel="pmap"), tmp_path)
    found = {}
    for row in metrics.read(tmp_path / "metrics.jsonl")[1]:
        found |= {(row["step"], name): x for name, x in configuration.flatten(row).items()}
    for row in metrics.read(undisturbed[0] / "metrics.jsonl")[1]:
        for name, x in configuration.flatten(row).items():
            if "orthogonality_error" not in name:  # Rounding, and nothing else.
                assert found[row["step"], name] == pytest.approx(x, rel=1e-4)
