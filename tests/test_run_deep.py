"""What the runner measures of deep networks: population statistics, profiles over layers."""

import jax
import numpy as np
import pytest
from flax import nnx
from oialr_runs import logged, use_devices

from experiments import (
    configuration,
    data,
    depth_figures,
    evaluation,
    fitting,
    optimizers,
    run,
    training,
)
from experiments.configs import bn_training, pso_depth

pytestmark = pytest.mark.usefixtures("one_device")


def deep(**changes):
    config = bn_training.base("mnist_5k", 6, 2)
    config.update({"batch_size": 20, "population": 500})
    config.model.update({"width": 6, "depth": 4})
    config.profile = {"every": 3, "kernels": r"hidden/layers/kernel"}
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("deep")
    with pytest.MonkeyPatch.context() as patch:
        use_devices(patch, 1)
        run.run(deep(), workdir)
    (config,) = configuration.arms(deep()).values()
    dataset = data.load("mnist_5k")
    model = training.make_model(config, dataset)
    optimizer = optimizers.make_optimizer(config)
    return workdir, dataset, model, training.init_state(model, optimizer, config.seed)


def test_models_are_tested_by_the_statistics_of_the_training_images_too(trained):
    workdir, dataset, model, state = trained
    assert set(logged(workdir, "population_accuracy")) == {0, 3, 6}
    images, labels = dataset.train.take(np.arange(500))
    del labels
    found = evaluation.make_population(model, images)(state).variables
    module = nnx.merge(model.train, state.params, state.variables)
    x = model.task.preprocess(images).reshape(500, -1) @ module.embed.kernel[...]
    x = x + module.embed.bias[...]
    np.testing.assert_allclose(found["embed"]["norm"]["mean"], x.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["embed"]["norm"]["var"], x.var(0), rtol=1e-4)
    # The last layer sees what the layers before pass on with statistics of this set, not others.
    x = np.asarray(module.embed(model.task.preprocess(images).reshape(500, -1)))
    for i in range(3):
        layer = module.hidden.layer(i)
        x, before = np.asarray(layer(x)), x
    before = before @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...])
    own = found["hidden"]["layers"]["norm"]["var"][2]
    np.testing.assert_allclose(own, before.var(0), rtol=1e-3)


def test_a_profile_has_the_gap_and_the_gradient_of_each_layer(trained):
    workdir, dataset, model, state = trained
    profiles = logged(workdir, "profile")
    assert list(profiles) == [0, 3, 6]
    name = "hidden/layers/kernel"
    gaps, norms = (profiles[0][key][name] for key in ("isometry_gap", "log_grad_norm"))
    assert len(gaps) == len(norms) == 3
    np.testing.assert_allclose(gaps, 0, atol=1e-5)  # Orthogonal at first,
    assert min(profiles[6]["isometry_gap"][name]) > 1e-9  # not quite after some steps.
    images, labels = dataset.train.take(np.arange(20))

    def loss(params):
        module = nnx.merge(model.train, params, state.variables, copy=True)
        return model.task.loss(module(model.task.preprocess(images)), labels).mean()

    kernel = jax.jit(jax.grad(loss))(state.params)["hidden"]["layers"]["kernel"]
    expected = np.log(np.linalg.norm(np.asarray(kernel, np.float64), axis=(1, 2)))
    np.testing.assert_allclose(norms, expected, rtol=1e-3, atol=1e-3)
    assert (workdir / "profile.png").stat().st_size > 10_000


def test_a_profile_of_zeros_and_of_narrow_kernels_is_no_divergence(tmp_path):
    # ReZero's inner kernels have no gradient at first, folds have more rows than columns.
    config = pso_depth.base("mnist_5k", 1, 1)
    config.update({"seeds": (), "batch_size": 20})
    config.profile = {"every": 1, "kernels": "hidden/layers/inner/kernel"}
    config.model.update({"block": "rezero", "width": 6, "depth": 2})
    run.train(config, tmp_path)
    norms = logged(tmp_path, "profile")[0]["log_grad_norm"]
    assert norms["hidden/layers/inner/kernel"] == [-np.inf, -np.inf]

    config.model.update({"block": "fold", "folds": 3})
    dataset = data.load("mnist_5k")
    model = training.make_model(config, dataset)
    state = training.init_state(model, optimizers.make_optimizer(config), 0)
    batch = dataset.train.take(np.arange(20))
    gaps = evaluation.make_profile(model, "hidden/layers/kernel", *batch)(state)["isometry_gap"]
    np.testing.assert_allclose(gaps["hidden/layers/kernel"], 0, atol=1e-5)


@pytest.mark.parametrize("kernels", ["hidden/layers/kern", ".*kernel"])
def test_a_profile_is_of_stacked_kernels(kernels, tmp_path):
    config = deep(**{"profile.kernels": kernels})
    with pytest.raises(configuration.ConfigurationError, match=r"out\]: hidden/layers/kernel\."):
        run.run(config, tmp_path)


def test_the_cost_of_a_program_with_a_loop_over_layers_is_not_told(trained):
    workdir, *_ = trained
    assert '"flops": null' in (workdir / "timing.jsonl").read_text()


def test_an_arm_of_another_model_gives_all_of_its_fields():
    config = pso_depth.base("mnist_5k", 1, 6)
    config.arms = {"blocks": {}, "mlp": {"model": deep().model.to_dict()}}
    arms = configuration.arms(config)
    assert arms["mlp"].model.to_dict() == deep().model.to_dict()
    config.arms = {"mlp": {"model": {"name": "deep_mlp", "width": 5}}}
    with pytest.raises(configuration.ConfigurationError, match=r"needs model\.depth"):
        configuration.arms(config)


def test_statistics_of_parts_of_the_batch_are_refused(monkeypatch):
    dataset = data.load("mnist_5k")
    use_devices(monkeypatch, 2)
    message = "parallel=pmap .* 2 devices .*model.name=deep_mlp has batch stat.*set parallel=jit"
    with pytest.raises(configuration.ConfigurationError, match=message):
        fitting.make_model(deep(parallel="pmap"), dataset)
    fitting.make_model(deep(), dataset)
    fitting.make_model(deep(parallel="pmap", **{"model.norm": "none"}), dataset)
    use_devices(monkeypatch, 1)
    fitting.make_model(deep(parallel="pmap"), dataset)


def test_more_arms_than_colours_are_not_drawn(tmp_path):
    from experiments import figures
    from experiments.drawing import COLORS

    assert figures.draw({str(i): [] for i in range(len(COLORS) + 1)}, tmp_path) == []
    assert depth_figures.profile({"arm": []}) is None
