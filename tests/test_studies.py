"""Studies: what they measure, that they go on where they were stopped, and their errors."""

import csv
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments import configuration, models, studies
from experiments.configs import bn_explosion, bn_isometry, bn_rank, jacobian_spectrum
from experiments.configuration import ConfigurationError
from experiments.studies import common, gradients, isometry, jacobian
from orthojax import persistent

CONFIGS = Path(bn_explosion.__file__).parent
SMALL = {
    "seeds": (0, 3),
    "batch_size": 12,
    "data.name": "mnist_5k",
    "model.width": 8,
    "model.depth": 4,
    "study.at": (3, 4),
}


def small(preset=bn_explosion, **overrides):
    """A preset in small; `study__k=3` sets study.k, `arms` is replaced as a whole."""
    config = preset.get_config()
    changed = {field.replace("__", "."): value for field, value in overrides.items()}
    config.arms = changed.pop("arms", {})
    config.update_from_flattened_dict((SMALL if preset is bn_explosion else {}) | changed)
    return config


def table(workdir):
    with (workdir / "results.csv").open() as file:
        return list(csv.DictReader(file))


def is_study(path):
    return re.search(r"c\.study\b|import bn_(explosion|shaping)\b", path.read_text())


PRESETS = sorted(filter(is_study, CONFIGS.glob("[!_]*.py")))


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_each_preset_is_a_study_that_says_how_it_is_started(path):
    namespace = {}
    exec(compile(path.read_text(), str(path), "exec"), namespace)
    config, docstring = namespace["get_config"](), namespace["__doc__"]
    for arm in configuration.arms(config, studies.check).values():
        assert studies.STUDIES[arm.study.name].cells(arm)
    assert f"--config=experiments/configs/{path.name}" in docstring


# What is measured.


def test_log_norms_of_gradients_are_those_of_the_network_written_out():
    config = small(model__norm="batch", model__activation="tanh", model__gain_exponent=0.4)
    dataset = common.load_data("mnist_5k", "")
    images, labels = gradients.batches(config, dataset)
    model = models.build(
        **config.model.to_dict(),
        arguments=dataset.model_arguments,
        rngs=nnx.Rngs(jax.random.key(3)),
    )
    first, kernels, last = (
        model.embed.kernel[...],
        model.hidden.layers.kernel[...],
        model.head.kernel[...],
    )

    def layer(x, w, l):  # noqa: E741
        x = x @ w
        x = (x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-5)
        return jnp.tanh((l + 1) ** -0.4 * x)

    def loss(kernels):
        x = (images[1] / 255.0 - np.array(dataset.mean)) / np.array(dataset.std)
        x = layer(x.reshape(12, -1), first, 0)
        for l, w in enumerate(kernels, start=1):  # noqa: E741
            x = layer(x, w, l)
        chosen = jax.nn.log_softmax(x @ last)[jnp.arange(12), labels[1]]
        return -chosen.mean()

    grads = jax.jit(jax.grad(loss))(kernels)
    (own,) = gradients.make_measure(config)(4)[1:]
    assert own["seed"] == 3
    assert own["layers"] == [0, 1, 2]
    expected = np.log(np.linalg.norm(grads, axis=(1, 2)))
    np.testing.assert_allclose(own["log_norms"], expected, rtol=0, atol=1e-4)
    assert own["first"] == own["log_norms"][0]
    assert own["rate"] == pytest.approx(expected[1] - expected[2], abs=1e-4)


def test_the_rate_is_the_slope_of_the_middle_layers():
    layers = np.arange(300.0)
    bent = np.where(layers < 120, 70.0, 80 - layers / 4)  # Ends that differ are left out.
    bent[290:] = -3
    assert gradients.rate(bent) == pytest.approx(0.25)
    assert gradients.rate(np.array([3.0, 1.0])) == 2
    assert np.isnan(gradients.rate(bent[:1]))
    assert np.isnan(gradients.rate(np.full(20, np.inf)))


def test_rates_are_drawn_with_the_exponents_of_their_powers(tmp_path, capsys, monkeypatch):
    def powers(config, dataset):  # As of layers with a rate of gain^3.
        return lambda key, images, labels: -(config.model.gain**3) * jnp.arange(30.0)

    monkeypatch.setattr(gradients, "make_log_norms", powers)
    along = {"study__along": "model.gain", "study__at": (0.5, 1.0), "study__measure": "rate"}
    studies.run(small(**along), tmp_path)
    assert [float(row["rate"]) for row in table(tmp_path)] == [0.125, 0.125, 1, 1]
    assert re.search(
        r"rate of explosion, gain: .*\n.*\n +local exponent +3\.0", capsys.readouterr().out
    )
    assert (tmp_path / "rate.png").stat().st_size > 10_000
    studies.run(small(**(along | {"study__measure": "log_norm"})), tmp_path)  # Nothing is measured.
    assert (tmp_path / "gradients.png").exists()


def test_an_arm_whose_data_are_missing_is_left_out_of_the_figure():
    arms = {"here": small(), "missing": small()}
    rows = [
        {"arm": "here", "model.depth": depth, "first": 1.0, "layers": [0, 1], "log_norms": [1, 0]}
        for depth in (3, 4)
    ]
    figures, lines = gradients.report(arms, rows)
    assert [line.get_label() for line in figures["gradients"].axes[0].lines] == ["here"]
    assert [line[1:] for line in lines[1:]] == [["1.00", "1.00"], ["-", "-"]]


def test_repeated_images_are_so_many_different_ones():
    images, labels = gradients.batches(small(study__distinct=5), common.load_data("mnist_5k", ""))
    assert images.shape[:2] == labels.shape == (2, 12)
    assert [len(np.unique(own.reshape(12, -1), axis=0)) for own in images] == [5, 5]
    np.testing.assert_array_equal(images[:, 0], images[:, 10])


def test_isometry_gap_starts_as_defined_and_falls_by_the_law(x64):
    width, keys = 20, jax.vmap(jax.random.key)(jnp.arange(20))
    values = np.asarray(
        jax.jit(jax.vmap(lambda key: isometry.gaps(key, width, 30, 0.005, "orthogonal")))(keys)
    )
    u, v = np.asarray(jax.random.uniform(jax.random.split(keys[0])[0], (2, width)))
    gram = (x := 0.995 * np.eye(width) + 0.005 * np.outer(u, v)) @ x.T
    expected = np.log(np.trace(gram) / width) - np.linalg.slogdet(gram)[1] / width
    assert values[0, 0] == pytest.approx(expected, rel=1e-8)
    rate = np.log(values[:, 1] / values[:, -1]).mean() / 29
    assert rate == pytest.approx(2 / (width + 2), rel=0.1)


@jax.enable_x64(True)
def test_jacobians_are_those_of_the_whole_network():
    study = small(
        jacobian_spectrum, study__width=6, study__depth=5, study__layer="block", study__k=4
    ).study

    @jax.jit
    def both(key):
        weights_key, input_key = jax.random.split(key)
        blocks = persistent.block(weights_key, 5, 6, 4, dtype=jnp.float64)
        x = jax.random.normal(input_key, (jacobian.INPUTS, 6))
        network = lambda x: persistent.propagate(blocks, x, residual=False)
        whole = jax.jacfwd(network)(x[0]), network(x)
        return jacobian.measures(key, study, np.array([2, 5])), whole

    (spectra, cosines), (j, y) = jax.device_get(both(jax.random.key(1)))
    np.testing.assert_allclose(spectra[1], np.linalg.svd(j, compute_uv=False), atol=1e-12)
    y = y / np.linalg.norm(y, axis=1, keepdims=True)
    off = (y @ y.T)[~np.eye(jacobian.INPUTS, dtype=bool)]
    assert cosines[1] == pytest.approx(off.mean(), abs=1e-12)


def test_spectra_of_folds_are_ones_and_of_a_projection_as_many_as_it_keeps(tmp_path, capsys):
    arms = {
        name: {"study": {"layer": layer}}
        for name, layer in (("folds", "fold"), ("kept", "projection"))
    }
    config = small(
        jacobian_spectrum,
        seeds=(0,),
        study__width=8,
        study__depth=50,
        study__k=2,
        study__folds=3,
        arms=arms,
    )
    studies.run(config, tmp_path)
    last = {row["arm"]: row for row in table(tmp_path) if row["depth"] == "50"}
    assert (last["folds"]["ones"], last["kept"]["ones"]) == ("1.0", "0.75")
    assert float(last["folds"]["smallest"]) == pytest.approx(1, abs=1e-12)
    assert (tmp_path / "jacobian.png").exists()
    assert (tmp_path / "cosine.png").exists()
    assert "after 50 layers" in capsys.readouterr().out


def test_sets_that_are_not_prepared_are_left_out(tmp_path, capsys):
    config = small(
        bn_rank,
        data__dir=str(tmp_path / "none"),
        study__datasets=("mnist_5k", "cifar10"),
        study__batch_sizes=(10,),
        study__batches=2,
    )
    studies.run(config, tmp_path / "run")
    rows = table(tmp_path / "run")
    assert [(row["data"], row["dtype"], row["rank"]) for row in rows] == [
        ("mnist_5k", dtype, "10") for _ in range(2) for dtype in ("float32", "float64")
    ]
    assert "Left out: cifar10 is not prepared" in capsys.readouterr().out
    config.study.datasets = ("cifar10",)
    with pytest.raises(ConfigurationError, match=r"nothing was measured: cifar10 .*prepare_data"):
        studies.run(config, tmp_path / "other")


# Runs.


def test_a_study_goes_on_after_its_last_whole_cell(tmp_path, monkeypatch):
    arms = {"rotations": {}, "Gaussian": {"study": {"kernel_init": "gaussian"}}}
    sizes = {"study__widths": (3, 4), "study__depth": 4, "seeds": (0, 1)}
    config = small(bn_isometry, arms=arms, **sizes)
    studies.run(config, tmp_path)
    whole = (tmp_path / "rows.jsonl").read_text()
    results = (tmp_path / "results.csv").read_bytes()
    assert [json.loads(line)["cell"] for line in whole.splitlines()[1:]] == [3, 4, 3, 4]

    measured = []
    make = isometry.make_measure

    def counting(arm):
        measure = make(arm)
        return lambda width: measured.append((arm.study.kernel_init, width)) or measure(width)

    monkeypatch.setattr(isometry, "make_measure", counting)
    monkeypatch.setattr(isometry, "report", lambda arms, rows: ({}, [["drawn above"]]))
    (tmp_path / "rows.jsonl").write_text(whole[:-20])  # Killed while writing the last cell.
    studies.run(config, tmp_path)
    assert measured == [("orthogonal", 4)]  # The arms come in the order of their names.
    assert (tmp_path / "rows.jsonl").read_text() == whole
    assert (tmp_path / "results.csv").read_bytes() == results

    config.study.widths = (4, 2)
    studies.run(config, tmp_path)
    assert measured[1:] == [("gaussian", 2), ("orthogonal", 2)]
    assert {row["width"] for row in table(tmp_path)} == {"4", "2"}

    config.study.depth = 5
    with pytest.raises(ConfigurationError, match=r"another study \(study.depth: 4 there, 5 now\)"):
        studies.run(config, tmp_path)


def test_gradients_that_overflow_are_said_to(tmp_path, capsys, monkeypatch):
    def overflowing(config, dataset):
        return lambda key, images, labels: jnp.array([jnp.inf, 80.0, 1.0])

    monkeypatch.setattr(gradients, "make_log_norms", overflowing)
    studies.run(small(), tmp_path)
    assert "overflow" in capsys.readouterr().out
    assert table(tmp_path)[0]["first"] == "inf"


# Errors, each one line.


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"study__name": "gradient"}, ["study.name", "nearest: gradients"]),
        ({"seeds": ()}, ["seeds", "different whole numbers"]),
        ({"seeds": (1, 1)}, ["seeds", "(1, 1)"]),
        ({"batch_size": 0}, ["batch_size must be positive", "0"]),
        ({"data__name": "cifar"}, ["data.name", "cifar10"]),
        ({"model__name": "deep_mpl"}, ["model.name", "deep_mlp"]),
        ({"model__norm": "batches"}, ["model.norm", "batch"]),
        ({"study__along": "model.dept"}, ["study.along", "model.depth"]),
        ({"study__at": ()}, ["study.at", "model.depth"]),
        ({"study__at": ("deep",)}, ["study.at", "model.depth='deep'"]),
        ({"study__measure": "rates"}, ["study.measure", "nearest: rate"]),
        ({"study__distinct": 13}, ["study.distinct", "batch_size=12", "13"]),
        ({"arms": {"a": {"study": {"widths": (3,)}}}}, ["arms.a", "study.widths"]),
        ({"preset": bn_isometry, "study__widths": (1,)}, ["study.widths", "from 2 on"]),
        ({"preset": bn_isometry, "study__correlation": 1.0}, ["study.correlation", "[0, 1)"]),
        ({"preset": bn_rank, "study__datasets": ("minst",)}, ["study.datasets", "mnist"]),
        ({"preset": jacobian_spectrum, "study__layer": "folds"}, ["study.layer", "fold"]),
        (
            {"preset": jacobian_spectrum, "study__layer": "block", "study__k": 3},
            ["study.layer=block", "`k` is between"],
        ),
    ],
)
def test_mistakes_are_one_line(overrides, words, tmp_path):
    config = small(**overrides)
    with pytest.raises(ConfigurationError) as refused:
        studies.run(config, tmp_path)
    assert "\n" not in str(refused.value)
    for word in words:
        assert word in str(refused.value)
    assert not any(tmp_path.iterdir())


def test_a_field_of_no_study_or_of_no_use_is_refused():
    config = small()
    with config.unlocked():
        config.steps = 3
    with pytest.raises(ConfigurationError, match="unknown name 'steps'"):
        configuration.arms(config, studies.check)
    config = small()
    with config.unlocked():
        del config.model["norm"]
    with pytest.raises(ConfigurationError, match=r"deep_mlp.* needs model\.norm"):
        configuration.arms(config, studies.check)


def test_a_kernel_that_the_model_has_not_is_told_with_those_it_has(tmp_path):
    with pytest.raises(ConfigurationError, match=r"^study\.kernel.*hidden/layers/kernel"):
        studies.run(small(study__kernel="hidden/kernel"), tmp_path)
