"""What scripts/measure_models.py says, of models small enough to check; and that the configurations
of ImageNet are ones that can be run."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from oialr_runs import use_devices

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import measure_models

from benchmarks.products import training_flops
from experiments import configuration
from experiments.configs import (
    imagenet_resnet50,
    oialr_imagenet_resnetrs101,
    oialr_imagenet_vitb16,
)

CONFIGS = (oialr_imagenet_vitb16, oialr_imagenet_resnetrs101, imagenet_resnet50)
VIT = {"patch": 4, "width": 16, "depth": 1, "heads": 2, "hidden": 64}
MLP = {"name": "mlp", "width": 32, "depth": 1, "activation": "relu", "kernel_init": "he_normal"}


def tiny(name=None, **model):
    """The arm "OIALR" of a configuration, with a small model for pictures of 8 x 8."""
    config = oialr_imagenet_vitb16.get_config()
    config.data.size = 8
    if name:
        config.model = {"name": name, **model}
    config.model.update(model)
    return configuration.arms(config)["OIALR"]


@pytest.fixture
def few_classes(monkeypatch):
    monkeypatch.setattr(measure_models, "CLASSES", 10)


@pytest.mark.parametrize("module", CONFIGS, ids=lambda module: module.__name__.split(".")[-1])
def test_all_arms_of_a_configuration_can_be_right(module):
    config = module.get_config()
    arms = configuration.arms(config)  # checks each
    assert {"dense", "OIALR"} <= arms.keys()
    assert config.steps == config.steps // module.EPOCH * module.EPOCH
    assert 1_281_167 // config.batch_size == module.EPOCH
    assert round(arms["OIALR"].oialr.delay * config.steps) == config.fork_at


def test_the_pufferfish_arm_is_of_the_published_size():
    arm = configuration.arms(imagenet_resnet50.get_config())["Pufferfish-like"]
    state = measure_models.abstract(measure_models.make(arm), arm.oialr.rank_value)
    assert {n.split("/")[0] for n in state.bases} == {"block_13", "block_14", "block_15"}
    cores = sum(basis.columns**2 for basis in state.bases.values())
    # hybrid_resnet50 of hwang595/Pufferfish at 3f7a271, which has no S.
    assert measure_models.stored(state) - cores == 15_202_344


def test_all_kernels_but_that_of_the_head_are_of_low_rank(few_classes):
    case = measure_models.make(tiny(**VIT))
    assert case.method.select(jax.eval_shape(case.model.init)[0]).keys() == {
        "patch_embed/kernel",
        "block_0/attention/qkv/kernel",
        "block_0/attention/out/kernel",
        "block_0/mlp_in/kernel",
        "block_0/mlp_out/kernel",
    }


def check_sizes(case, kernels, others, rank, part, each):
    """Dense sizes and those at the rank `rank`, the part `part`, against formulas.

    kernels: [(inputs, outputs, rows a picture)] of those of low rank, in order.
    others: multiply-adds a picture of the other products in the forward pass.
    """
    dense, low = (measure_models.sizes(case, p, each) for p in (None, part))
    rest = dense["trained"] - sum(n * p for n, p, _ in kernels)
    assert dense["stored"] == dense["trained"]
    assert low["trained"] == rest + len(kernels) * rank**2
    assert low["stored"] == low["trained"] + rank * sum(n + p for n, p, _ in kernels)

    inputs, outputs, rows = kernels[0]  # Pictures have no gradient.
    step = 3 * (sum(n * p * t for n, p, t in kernels) + others) - inputs * outputs * rows
    assert dense["flops_by_formulas"] == 2 * each * step
    step = sum(t * (2 * rank * (n + p) + 3 * rank**2) for n, p, t in kernels) + 3 * others
    assert low["flops_by_formulas"] == 2 * each * (step - rows * rank * (inputs + rank))
    for row in dense, low:
        assert row["flops"] / row["flops_by_formulas"] > 0.98
        assert row["temporary_bytes"] > 0
        # The gradients, the loss and the accuracy: of low rank less.
        assert 0 <= row["sent_bytes"]["all-reduce"] - 4 * row["trained"] < 400
    # AdamW: two moments, two counts. A key, sums and the pictures are arguments too.
    assert dense["optimizer_bytes"] == 8 * dense["trained"] + 8
    assert 0 <= dense["argument_bytes"] - 12 * dense["trained"] - each * (8 * 8 * 3 + 4) < 300


def test_sizes_are_those_of_the_formulas(few_classes):
    case = measure_models.make(tiny(**MLP))
    check_sizes(case, [(192, 32, 1), (32, 32, 1)], 32 * 10, rank=8, part=0.25, each=64)


@pytest.mark.slow
def test_sizes_of_a_vit_are_those_of_the_formulas(few_classes):
    case = measure_models.make(tiny(**VIT))
    # 4 patches and a class token.
    kernels = [(48, 16, 4), (16, 48, 5), (16, 16, 5), (16, 64, 5), (64, 16, 5)]
    check_sizes(case, kernels, 2 * 25 * 16 + 160, rank=4, part=0.25, each=16)


def test_flops_by_hand_are_those_that_the_compiler_counts():
    def loss(params, x):
        for kernel in params.values():
            x = jnp.tanh(jax.lax.stop_gradient(x) if x.shape[1] == 8 else x) @ kernel
        return jnp.sum(x**2)

    params = {"a": jnp.ones((8, 64)), "b": jnp.ones((64, 32))}
    x = jnp.ones((128, 8))
    program = jax.make_jaxpr(loss)(params, x)
    by_hand = training_flops(program.jaxpr, ["a", "b"], {})
    counted = jax.jit(jax.grad(loss)).lower(params, x).compile().cost_analysis()["flops"]
    assert by_hand == 2 * 128 * (2 * 8 * 64 + 3 * 64 * 32)
    assert 1 <= counted / by_hand < 1.1  # and tanh


SLOW = pytest.param(VIT, "bfloat16", marks=pytest.mark.slow)


@pytest.mark.parametrize(("model", "dtype"), [(MLP, "float32"), SLOW], ids=["mlp", "vit"])
def test_steps_are_run_and_train(few_classes, model, dtype):
    with pytest.MonkeyPatch.context() as patch:
        use_devices(patch, 1)
        case = measure_models.make(tiny(**model), dtype)
        dense, low, full = measure_models.run(case, [0.5, 1.0], size=4, rounds=2)
    for row in dense, low, full:
        assert row["finite"]
        assert row["changed"] > row["of"] / 2
        assert len(measure_models.cells(row, dense)) == measure_models.TIMES.count("|") + 1
    # The same model.
    tolerance = {"float32": 1e-5, "bfloat16": 0.02}[dtype]
    assert full["first_loss"] == pytest.approx(dense["first_loss"], rel=tolerance)
    assert low["first_loss"] != pytest.approx(dense["first_loss"], rel=tolerance)
