"""The experiment runner, on a network and a run as small as they may be."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from absl import flags
from flax import nnx

from experiments import command_line, configuration, data, metrics, models, run, training
from experiments.checkpoints import Checkpoints
from experiments.configs import quickstart
from experiments.parallel import PARALLEL

RUN = Path(run.__file__)
QUICKSTART = Path(quickstart.__file__)

TINY = {
    "steps": 12,
    "batch_size": 16,
    "eval_batch_size": 80,  # Does not divide the 1,000 test images.
    "log_every": 3,
    "eval_every": 4,
    "checkpoint_every": 5,
    "model.width": 8,
    "model.depth": 2,
    "optimizer.schedule": "constant",
    "constraint.map": "cayley",
    "constraint.rebase_every": 4,
    "arms": {},
}


def tiny(**overrides):
    """The quickstart in small; `optimizer__lr=0.1` sets optimizer.lr."""
    config = quickstart.get_config()
    changed = TINY | {key.replace("__", "."): value for key, value in overrides.items()}
    config.arms = changed.pop("arms")
    config.update_from_flattened_dict(changed)
    (arm,) = configuration.arms(config).values()
    return arm


def rows(workdir):
    return (workdir / "metrics.jsonl").read_text().splitlines()


def status(workdir):
    return json.loads((workdir / "status.json").read_text())


def assert_same_arrays(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """(workdir, final state) of the tiny run."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    return workdir, run.train(tiny(), workdir)


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
    logits = np.asarray(module(model.normalize(dataset.test.images)), np.float64)
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
    model, optimizer = training.make_model(config, dataset), training.make_optimizer(config)
    step = jax.jit(training.make_train_step(model, optimizer, log_every=10))
    state = training.init_state(model, optimizer)
    expected = 0.0
    for i in range(2):
        images, labels = data.batch(dataset.train, 16, 0, i)
        state, _ = step(state, images, labels)
        normalized = (images / 255.0 - dataset.mean) / dataset.std
        expected = 0.9 * expected + 0.1 * normalized.mean()
    np.testing.assert_allclose(state.variables["norm"]["mean"], [expected], rtol=1e-4)


# The same run again.


def start(workdir, *arguments):
    command = [sys.executable, str(RUN), f"--config={QUICKSTART}", f"--workdir={workdir}"]
    command += [f"--config.{key}={value}" for key, value in (TINY | {"steps": 60}).items()]
    environment = os.environ | {"XLA_FLAGS": ""}  # One device.
    return subprocess.Popen(
        [*command, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def stop_at(process, workdir, step, number):
    """Sends signal `number` when `workdir` has a row of `step` or later; returns the output."""
    while process.poll() is None:
        path = workdir / "metrics.jsonl"
        if path.exists() and any(f'"step": {step},' in row for row in rows(workdir)):
            process.send_signal(number)
            break
        time.sleep(0.002)
    return process.communicate(timeout=120)[0]


def arrays(workdir, step=60):
    path = workdir / "checkpoints" / str(step) / "state"
    return ocp.StandardCheckpointer().restore(path.absolute())


@pytest.fixture(scope="module")
def undisturbed_process(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed_process")
    process = start(workdir)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "ended"),
    [(signal.SIGKILL, -9, "running"), (signal.SIGTERM, 143, "interrupted")],
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

    def batch_with_signal(split, size, seed, i, augment):
        if i == step - 1:
            os.kill(os.getpid(), number)
        return batch(split, size, seed, i, augment)

    monkeypatch.setattr(data, "batch", batch_with_signal)
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
        Checkpoints(workdir / "checkpoints", tiny()) as checkpoints,
        pytest.raises(configuration.ConfigurationError) as error,
    ):
        checkpoints.restore(target._replace(params=params))
    assert "params/extra: nothing there, float32[2] now" in str(error.value)
    assert "params/head/kernel: float32[8, 10] there, float32[4, 10] now" in str(error.value)


# When training fails.


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_a_diverging_run_names_the_steps_and_keeps_no_bad_checkpoint(tmp_path, name):
    with pytest.raises(metrics.Diverged, match="at step 1, all was finite at step 0"):
        run.train(tiny(optimizer__lr=1e30, optimizer__name=name, checkpoint_every=1), tmp_path)
    assert status(tmp_path)["status"] == "diverged"
    assert status(tmp_path)["step"] == 1
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_run_that_diverges_late_keeps_its_last_finite_checkpoint(tmp_path, monkeypatch):
    schedule = training.make_schedule
    monkeypatch.setattr(
        training,
        "make_schedule",
        lambda config: lambda step: jnp.where(step == 7, jnp.inf, schedule(config)(step)),
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


@pytest.mark.parametrize("constraint", ["cayley", "none"])
def test_jit_and_pmap_on_eight_devices_and_one_device_give_the_same_losses(tmp_path, constraint):
    assert jax.local_device_count() == 8
    config = tiny(constraint__map=constraint)
    dataset = data.load("mnist_5k")
    model, optimizer = training.make_model(config, dataset), training.make_optimizer(config)

    def step_of(axis):
        return training.make_train_step(model, optimizer, log_every=3, axis=axis)

    losses, finals = [], []
    for kind in ("jit", "pmap", "one device"):
        state = jax.jit(lambda: training.init_state(model, optimizer))()
        if kind == "one device":
            put, step = lambda *batch: batch, jax.jit(step_of(None))
            gather = lambda state: state
        else:
            devices = PARALLEL[kind]()
            put, step, gather = devices.put, devices.compile_step(step_of), devices.gather
            state = devices.spread(jax.device_put(state, devices.replicated))
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


# Mistakes.


def parse(monkeypatch, capsys, *arguments):
    """The code and message with which the command line of `arguments` is refused."""
    argv = ["run.py", *arguments]
    monkeypatch.setattr(sys, "argv", argv)
    flags.FLAGS.unparse_flags()
    try:
        with pytest.raises(SystemExit) as stopped:
            command_line.parse_flags(argv)
    finally:
        for name in [name for name in flags.FLAGS if name.startswith("config.")]:
            delattr(flags.FLAGS, name)
        flags.FLAGS.mark_as_parsed()
    return stopped.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--config.optimizer.lrr=1", ["--config.optimizer.lrr", "nearest: optimizer.lr"]),
        ("--config.lr=1", ["--config.lr", "nearest: optimizer.lr"]),
        ("--config.steps.x=1", ["--config.steps.x", "nearest: steps"]),
        ("--config.model.widht=1", ["--config.model.widht", "model.width"]),
        ("--config.steps=1.5", ["--config.steps=1.5", "int"]),
        ("--config.optimizer.lr=fast", ["--config.optimizer.lr=fast", "float"]),
        ("--config.optimizer=3", ["--config.optimizer=3"]),
        ("--wrokdir=x", ["wrokdir", "workdir"]),
    ],
)
def test_a_misspelt_or_ill_typed_flag_is_one_line_with_the_nearest_name(
    monkeypatch, capsys, argument, words
):
    code, message = parse(monkeypatch, capsys, f"--config={QUICKSTART}", argument)
    assert code == 2
    assert message.count("\n") == 1
    for word in words:
        assert word in message


def test_a_missing_configuration_is_one_line_with_the_nearest_file(monkeypatch, capsys):
    code, message = parse(monkeypatch, capsys, "--config=configs/quikstart.py", "--config.seed=1")
    assert (code, message.count("\n")) == (2, 1)
    assert str(QUICKSTART) in message
    code, message = parse(monkeypatch, capsys)
    assert (code, message.count("\n")) == (2, 1)
    assert "quickstart" in message


@pytest.mark.slow
def test_a_mistake_ends_the_program_with_code_2_and_no_traceback(tmp_path):
    process = start(tmp_path / "new", "--config.constraint.map=cayly")
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 2
    assert output == "Error: constraint.map: unknown name 'cayly'; nearest: cayley.\n"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"data__name": "mnist5k"}, ["data.name", "mnist_5k"]),
        ({"data__augment": "flip"}, ["data.augment", "crop_flip"]),
        ({"model__name": "mpl"}, ["model.name", "mlp"]),
        ({"model__activation": "tahn"}, ["model.activation", "tanh"]),
        ({"optimizer__name": "adm"}, ["optimizer.name", "adam"]),
        ({"optimizer__schedule": "cosin"}, ["optimizer.schedule", "cosine"]),
        ({"constraint__map": "housholder"}, ["constraint.map", "householder"]),
        ({"parallel": "pmp"}, ["parallel", "pmap"]),
        ({"steps": 0}, ["steps must be positive, got 0"]),
        ({"batch_size": -8}, ["batch_size must be positive, got -8"]),
        ({"log_every": 0}, ["log_every must be positive"]),
        ({"optimizer__lr": float("nan")}, ["optimizer.lr must be positive, got nan"]),
        ({"optimizer__warmup_steps": 12}, ["optimizer.warmup_steps=12", "steps=12"]),
        ({"optimizer__weight_decay": 0.1}, ["optimizer.weight_decay=0.1", "adamw"]),
        ({"constraint__rules": ((".*", "orthogonl"),)}, ["constraint.rules", "orthogonal"]),
        ({"constraint__rules": (("(", "free"),)}, ["constraint.rules", "'('"]),
        ({"constraint__rules": ("free",)}, ["constraint.rules", "'free'"]),
        ({"arms": {"a": {"optimizer": {"lrr": 1.0}}}}, ["arms.a", "optimizer.lr"]),
        ({"arms": {"a": {"steps": "many"}}}, ["arms.a", "steps='many'"]),
    ],
)
def test_a_configuration_that_cannot_be_right_is_one_line_that_names_the_field(overrides, words):
    with pytest.raises(configuration.ConfigurationError) as error:
        tiny(**overrides)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"batch_size": 4008}, ["batch_size=4008", "4000 training examples"]),
        ({"batch_size": 12}, ["batch_size=12", "8 local devices"]),
        ({"eval_batch_size": 100}, ["eval_batch_size=100", "8 local devices"]),
        (
            {"constraint__rules": (("hidden.*", "orthogonal"),)},
            ["constraint.rules", "embed/bias", '(".*", ...)'],
        ),
        (
            {"constraint__rules": (("hiden.*", "orthogonal"), (".*", "free"))},
            ["constraint.rules", "hidden_0/kernel"],
        ),
        (
            {"data__name": "cifar10", "data__dir": "/nowhere"},
            ["cifar10", "prepare_data.py", "/nowhere"],
        ),
    ],
)
def test_what_does_not_fit_the_data_or_the_model_is_one_line_and_writes_nothing(
    tmp_path, overrides, words
):
    with pytest.raises(configuration.ConfigurationError) as error:
        run.train(tiny(**overrides), tmp_path / "new")
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)
    assert not (tmp_path / "new").exists()


def test_a_configuration_without_a_field_is_an_error_that_names_it():
    config = tiny().copy_and_resolve_references().unlock()
    del config.optimizer.clip_norm
    with pytest.raises(configuration.ConfigurationError, match="lacks optimizer"):
        configuration.check(config)
    config.optimizer.clip_norm = 0.0
    config.optimizer.nesterov = True
    with pytest.raises(configuration.ConfigurationError, match="nesterov"):
        configuration.check(config)


@pytest.mark.parametrize(
    "path", sorted(QUICKSTART.parent.glob("[!_]*.py")), ids=lambda path: path.stem
)
def test_each_configuration_constrains_what_its_optimizer_accepts(path):
    namespace = {}
    exec(compile(path.read_text(), str(path), "exec"), namespace)
    assert f"--config=experiments/configs/{path.name}" in namespace["__doc__"]
    shape = (32, 32, 3) if "cifar" in path.stem else (28, 28, 1)
    split = data.Split(np.zeros((1, *shape), np.uint8), np.zeros(1, np.int32))
    dataset = data.Dataset("zeros", split, split, 10, (0.5,) * shape[-1], (0.2,) * shape[-1])
    for arm in configuration.arms(namespace["get_config"]()).values():
        model, optimizer = training.make_model(arm, dataset), training.make_optimizer(arm)
        state = jax.eval_shape(lambda m=model, o=optimizer: training.init_state(m, o))
        configuration.check_rules(arm, state.params)
