"""Mistakes in a configuration or on the command line are one line."""

import sys

import jax
import numpy as np
import pytest
from absl import flags
from runs import LOW_RANK, QUICKSTART, experiment, start, tiny

from experiments import command_line, configuration, data, fitting, optimizers, run, training
from experiments.data import sources
from experiments.data.series import Windows


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
        ({"optimizer__schedule": "step_decay"}, ["optimizer.period=0", "step_decay"]),
        ({"optimizer__period": 5}, ["optimizer.period=5", "constant"]),
        ({"patience": -1}, ["patience must not be negative"]),
        ({"label_smoothing": 1.0}, ["label_smoothing must be below 1, got 1.0"]),
        ({"data__name": "ettm2"}, ["data 'ettm2' needs data.history"]),
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
        ({"batch_size": 12}, ["batch_size=12", "8 devices over"]),
        ({"eval_batch_size": 100}, ["eval_batch_size=100", "8 devices over"]),
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


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"oialr__face": "factord"}, ["oialr.face", "factored"]),
        ({"oialr__rank_rule": "cutof"}, ["oialr.rank_rule", "cutoff"]),
        ({"oialr__control": "galor"}, ["oialr.control", "galore"]),
        ({"oialr__delay": 1.5}, ["oialr.delay", "1.5"]),
        ({"oialr__every": -1}, ["oialr.every", "-1"]),
        ({"oialr__rewarm": -1}, ["oialr.rewarm", "-1"]),
        ({"oialr__grow": -1}, ["oialr.grow", "-1"]),
        ({"oialr__stability_every": -1}, ["oialr.stability_every", "-1"]),
        ({"oialr__rules": ((".*", "low_rnk"),)}, ["oialr.rules", "low_rank"]),
        ({"oialr__rules": (("(", "dense"),)}, ["oialr.rules", "'('"]),
        ({"constraint__map": "cayley"}, ["oialr.face=factored", "constraint.map=cayley"]),
        (
            {"oialr__face": "latent", "oialr__control": "random"},
            ["oialr.control=random", "oialr.face=factored"],
        ),
        ({"oialr__control": "diagonal"}, ["oialr.control=diagonal", "oialr.every=0"]),
        ({"oialr__control": "all"}, ["oialr.control=all", "oialr.every=0"]),
        ({"fork_at": 16}, ["fork_at=16", "steps=16"]),
        ({"fork_at": -1}, ["fork_at=-1"]),
        ({"arms": {"a": {"oialr": {"fase": "none"}}}}, ["arms.a", "oialr.face"]),
    ],
)
def test_a_mistake_in_oialr_is_one_line_that_names_the_field(overrides, words):
    with pytest.raises(configuration.ConfigurationError) as error:
        tiny(LOW_RANK, **overrides)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def rule(name, value):
    return {"oialr__rank_rule": name, "oialr__rank_value": value}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (rule("cutoff", 1.5), ["rank_value=1.5", "rank_rule=cutoff", "[0, 1)"]),
        (rule("energy", 0.0), ["rank_value=0.0", "rank_rule=energy"]),
        (rule("fixed", 2.0), ["rank_value=2.0", "rank_rule=fixed"]),
        (rule("budget", 0.0), ["rank_value=0.0", "rank_rule=budget"]),
        (rule("stable_rank", -1.0), ["rank_value=-1.0", "rank_rule=stable_rank"]),
        ({"oialr__control": "galore"}, ["control=galore", "rank_value", "0.25"]),
        ({"oialr__open": 0.0}, ["`open`", "0.0"]),
        ({"oialr__max_drop": 1.5}, ["`max_drop`", "1.5"]),
        ({"oialr__floor": 1.0}, ["`floor`", "1.0"]),
        ({"oialr__rules": ((".*", "dense"),)}, ["`rules`", "none", "hidden_0/kernel"]),
        (
            {"oialr__face": "none", "oialr__rules": ((".*", "dense"),)},  # Stability of no kernel.
            ["`rules`", "none", "hidden_0/kernel"],
        ),
        ({"oialr__rules": (("hidden.*", "dense"),)}, ["embed/bias", '(".*", ...)']),
        ({"oialr__rules": ((".*", "low_rank"),)}, ["embed/bias"]),
        (
            {
                "oialr__rules": (("head/kernel", "low_rank"), (".*", "dense")),
                "oialr__keep_last": True,
            },
            ["none", "head/kernel"],
        ),
    ],
)
def test_oialr_that_does_not_fit_the_model_is_one_line_and_writes_nothing(
    tmp_path, overrides, words
):
    with pytest.raises(configuration.ConfigurationError, match=r"^oialr: ") as error:
        run.train(tiny(LOW_RANK, **overrides), tmp_path / "new")
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("seeds", [(0, 1, 0), (0.5,), ("1",), (-1,), (True,)])
def test_seeds_are_different_whole_numbers(tmp_path, seeds):
    with pytest.raises(configuration.ConfigurationError, match="seeds are") as error:
        run.run(experiment(LOW_RANK, seeds=seeds), tmp_path / "new")
    assert str(seeds) in str(error.value)
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
    config = tiny(LOW_RANK).copy_and_resolve_references().unlock()
    del config.oialr.max_drop
    with pytest.raises(configuration.ConfigurationError, match=r"lacks oialr\.max_drop"):
        configuration.check(config)


def blank(name, shape, **options):
    """A data set of one example of zeros, in the place of the one called `name`."""
    if name in sources.SERIES:
        arrays = np.zeros((options["history"] + options["horizon"], 7), np.float32)
        marks = np.zeros((len(arrays), 5), np.float32)
        split = Windows(arrays, marks, np.zeros(1, int), **options)
        arguments = {**options, "channels": 7, "marks": 5}
        return data.Dataset(name, "forecasting", split, split, split, arguments)
    if "length" in options:
        symbols = np.zeros((1, options["length"]), np.int32)
        split, arguments = data.Split(symbols, symbols), {"vocabulary": 65, **options}
        return data.Dataset(name, "tokens", split, None, split, arguments)
    split = data.Split(np.zeros((1, *shape), np.uint8), np.zeros(1, np.int32))
    arguments = {"image_shape": shape, "num_classes": 10}
    return data.Dataset(name, "classification", split, None, split, arguments, (0.5,), (0.2,))


# ResNets of 50 and 101 layers take seconds to trace.
LARGE = "imagenet_resnet50", "oialr_imagenet_resnetrs101"
CONFIGS = [
    pytest.param(path, id=path.stem, marks=pytest.mark.slow if path.stem in LARGE else ())
    for path in sorted(QUICKSTART.parent.glob("[!_]*.py"))
]


@pytest.mark.parametrize("path", CONFIGS)
def test_each_configuration_chooses_kernels_that_its_optimizer_accepts(path):
    namespace = {}
    exec(compile(path.read_text(), str(path), "exec"), namespace)
    assert f"--config=experiments/configs/{path.name}" in namespace["__doc__"]
    config = namespace["get_config"]()
    if "study" in config:  # test_studies.py
        return
    arms, seen = configuration.arms(config), set()
    if config.get("fork_at", 0):
        arms["trunk"] = configuration.trunk(config)
    for arm in arms.values():
        low_rank = configuration.flatten(arm.to_dict().get("oialr", {}))
        chosen = [value for value in low_rank.values() if not isinstance(value, int | float)]
        key = str([arm.model, arm.constraint, chosen, arm.optimizer.name])
        if key in seen:  # Arms of other numbers only.
            continue
        seen.add(key)
        options = {option: arm.data[option] for option in data.options(arm.data.name)}
        size = options.get("size", 32 if "cifar" in arm.data.name else 28)
        shape = (size, size, 1 if "mnist" in arm.data.name else 3)
        dataset = blank(arm.data.name, shape, **options)
        model = fitting.make_model(arm, dataset)
        method = fitting.make_method(arm, model, dataset)
        optimizer = optimizers.make_optimizer(arm, method)
        state = jax.eval_shape(lambda m=model, o=optimizer: training.init_state(m, o, 0))
        fitting.check_rules(arm, state.params)
