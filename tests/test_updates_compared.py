"""Muon, links and penalties by name in a configuration; loss against time."""

import json

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import pytest
from matrices_of import gaussian, orthonormal
from runs import experiment, tiny

import orthojax
from experiments import configuration, metrics, optimizers, time_figures
from experiments.configs import updates_compared

RULES = (("kernel", "orthogonal"), (".*", "free"))


def configured(**overrides):
    constraint = {"constraint__map": "none", "constraint__rules": RULES, "optimizer__lr": 0.1}
    return tiny(**constraint | overrides)


def one_update(tx):
    params = {"kernel": orthonormal(0, (6, 4), np.float32), "bias": np.zeros(4, np.float32)}
    grads = {"kernel": gaussian(1, (6, 4), np.float32), "bias": gaussian(2, (4,), np.float32)}
    return jax.jit(lambda: tx.update(grads, tx.init(params), params)[0])()


@pytest.mark.parametrize("map_", ["none", "muon"])
def test_muon_takes_the_kernels_of_the_rules_and_adam_the_rest(map_):
    config = configured(optimizer__name="muon", constraint__map=map_)
    moves = one_update(optimizers.make_optimizer(config))
    kernel = orthojax.manifold_muon if map_ == "muon" else orthojax.muon
    tx = {"kernel": kernel(0.1, config.optimizer.momentum), "bias": optax.adam(0.1)}
    expected = one_update(optax.partition(tx, {"kernel": "kernel", "bias": "bias"}))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), moves, expected)


@pytest.mark.parametrize("name", ["pogo", "landing"])
def test_links_keep_the_kernels_of_the_rules_orthonormal(name):
    config = configured(optimizer__name="momentum", constraint__map=name)
    move = one_update(optimizers.make_optimizer(config))["kernel"]
    kernel = orthonormal(0, (6, 4), np.float32) + move
    assert jnp.linalg.norm(move) > 1e-3
    assert orthojax.orthogonality_error(kernel) < (0.5 if name == "landing" else 1e-3)


@pytest.mark.parametrize("name", sorted(optimizers.PENALTIES))
def test_a_penalty_moves_the_kernels_of_its_rules_alone(name):
    plain = one_update(optimizers.make_optimizer(configured(optimizer__name="sgd")))
    config = configured(optimizer__name="sgd").copy_and_resolve_references().unlock()
    config.penalty = {"name": name, "weight": 0.5, "rules": RULES}
    configuration.check(config)
    moves = one_update(optimizers.make_optimizer(config))
    np.testing.assert_array_equal(moves["bias"], plain["bias"])
    if name in ("spectral_norm", "spectral_cap"):  # The others are 0 where W is orthonormal.
        assert np.abs(moves["kernel"] - plain["kernel"]).max() > 1e-3
    if name == "spectral_cap":
        kernel = orthonormal(0, (6, 4), np.float32) + moves["kernel"]
        assert np.linalg.norm(kernel, 2) < 0.5 * 1.001


@pytest.mark.parametrize(
    ("section", "overrides", "words"),
    [
        ({"name": "sop"}, {}, ["penalty.name", "nearest: so"]),
        ({"weight": -1.0}, {}, ["penalty.weight", "-1.0"]),
        ({"rules": ((".*", "penalized"),)}, {}, ["penalty.rules", "penalized"]),
        ({"name": "spectral_cap"}, {"constraint__map": "cayley"}, ["spectral_cap", "cayley"]),
        (None, {"optimizer__name": "muon", "constraint__map": "cayley"}, ["muon", "cayley"]),
    ],
)
def test_what_cannot_be_right_is_one_line_that_names_it(section, overrides, words):
    config = experiment(**{"constraint__map": "none"} | overrides)
    if section is not None:
        config.penalty = {"name": "so", "weight": 1.0, "rules": RULES} | section
    with pytest.raises(configuration.ConfigurationError) as error:
        configuration.check(config)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_the_arms_have_the_learning_rates_of_their_kernels():
    for what, count in (("compared", 5), ("sweep", 15)):
        arms = configuration.arms(updates_compared.get_config(what))
        assert len(arms) == count
    arms = configuration.arms(updates_compared.get_config())
    for name, (_, lr) in updates_compared.ARMS.items():
        rate = arms[name].optimizer.lr * arms[name].constraint.lr_factor
        np.testing.assert_allclose(rate, lr)


def timed(folder, seconds, phases=((0, 10), (10, 10))):
    lines = [{"config": {}}]
    for step in (0, 5, 10, 20):
        lines.append({"step": step, "test_loss": 1 / (1 + step), "train_loss": 2 / (1 + step)})
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    lines = [{"program_at": 0, "compile_seconds": 9.0}]
    for start, steps in phases:
        lines.append({"phase_from": start, "steps": steps, "seconds_per_step": seconds})
        lines.append({"change_at": start + steps, "seconds": 1.0})
    (folder / "timing.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    return folder / "metrics.jsonl"


def test_loss_is_drawn_against_the_seconds_of_steps_and_changes_without_compilation(tmp_path):
    runs = {"slow": [timed(tmp_path / "a", 0.2)], "fast": [timed(tmp_path / "b", 0.1)]}
    rows = {arm: metrics.read(*paths)[1] for arm, paths in runs.items()}
    figure = time_figures.learning(rows, runs)
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    np.testing.assert_allclose(lines["slow"].get_xdata(), [0, 1, 2, 5])
    np.testing.assert_allclose(lines["fast"].get_xdata(), [0, 0.5, 1, 3])
    np.testing.assert_allclose(lines["fast"].get_ydata(), [1, 1 / 6, 1 / 11, 1 / 21])
    plt.close(figure)
    assert time_figures.learning({"slow": rows["slow"]}, {"slow": runs["slow"]}) is None
    (tmp_path / "a" / "timing.jsonl").unlink()
    assert time_figures.learning(rows, runs) is None
