"""Where arrays lie on a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec
from runs import TINY, tiny

import orthojax
from experiments import configuration, data, fitting, optimizers, parallel, training

MESH = jax.sharding.AbstractMesh((2, 2, 2), ("data", "fsdp", "tensor"))
PARAMS = {
    "dense": {"kernel": jnp.zeros((64, 32)), "bias": jnp.zeros(32)},
    "stack": {"kernel": jnp.zeros((6, 32, 32))},
    "odd": {"kernel": jnp.zeros((33, 34))},
    "small": {"kernel": jnp.zeros((8, 8))},
}


def specs(tree, params=PARAMS, rules=((".*", "auto"),), mesh=MESH):
    found = orthojax.shardings(tree, params, mesh, rules)
    return {
        orthojax.matrices.path_name(p): s.spec
        for p, s in jax.tree_util.tree_leaves_with_path(found)
    }


def test_auto_splits_large_matrices_by_the_axes_that_divide():
    assert specs(PARAMS) == {
        "dense/kernel": PartitionSpec("fsdp", "tensor"),
        "dense/bias": PartitionSpec(),
        "stack/kernel": PartitionSpec("fsdp", None, "tensor"),
        "odd/kernel": PartitionSpec(None, "tensor"),
        "small/kernel": PartitionSpec(),
    }


def test_what_a_transformation_keeps_lies_where_its_parameter_lies():
    tx = orthojax.orthogonal(
        optax.adam(1e-3),
        map="cayley",
        rules=[
            ("dense/kernel", "orthogonal"),
            ("stack/kernel", orthojax.MatrixAxes(-2, -1)),
            (".*", "free"),
        ],
    )
    state = jax.eval_shape(tx.init, PARAMS)
    rules = (("dense/kernel", (None, "fsdp")), ("stack.*", "replicated"), (".*", "auto"))
    found = specs(state, rules=rules)
    kept = {name: spec for name, spec in found.items() if name.endswith("dense/kernel")}
    assert len(kept) >= 3  # Base, moments.
    for name, spec in found.items():
        if name.endswith("dense/kernel"):
            assert spec in (PartitionSpec(None, "fsdp"), PartitionSpec("fsdp", "tensor")), name
        if "stack/kernel" in name or name.endswith("count"):
            assert spec == PartitionSpec(), name


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("rows", "it is \"auto\", \"replicated\" or a tuple of 'data', 'fsdp', 'tensor' and None"),
        (("fsdp", "tensor", None), "does not fit parameter 'dense/kernel' of shape"),
        (("model",), "does not fit"),
    ],
)
def test_a_rule_that_cannot_be_names_the_parameter(label, message):
    with pytest.raises(ValueError, match=message):
        specs(PARAMS, rules=(("dense/kernel", label), (".*", "auto")))


def test_an_axis_that_the_devices_do_not_divide_is_named():
    with pytest.raises(ValueError, match=r"parameter 'odd/kernel' of shape \(33, 34\)"):
        specs(PARAMS, rules=(("odd/kernel", ("fsdp",)), (".*", "auto")))


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ({}, (8, 1, 1)),
        ({"fsdp": 4}, (2, 4, 1)),
        ({"data": 2, "fsdp": 2, "tensor": -1}, (2, 2, 2)),
        ({"fsdp": 3}, None),
        ({"data": 2}, None),
        ({"data": 0}, None),
        ({"fsdp": -1}, None),
    ],
)
def test_the_mesh_has_all_devices_or_says_why_not(sizes, shape):
    if shape is None:
        with pytest.raises(ValueError, match="do not make up the 8 devices"):
            parallel.make_mesh(sizes)
    else:
        assert tuple(parallel.make_mesh(sizes).shape.values()) == shape


@pytest.mark.parametrize("constraint", ["cayley", "none"])
def test_a_split_step_is_that_of_one_device_and_holds_a_part(constraint):
    overrides = {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2, "model.width": 32}
    config = tiny(TINY | overrides, constraint__map=constraint)
    dataset = data.load("mnist_5k")
    model, optimizer = training.make_model(config, dataset), optimizers.make_optimizer(config)
    new = lambda: training.init_state(model, optimizer, 0)
    devices = parallel.of(config)
    split = devices.put_state(jax.jit(new)())
    alone = jax.jit(new)()
    step = training.make_train_step(config, model, optimizer)
    split_step, step = devices.compile_step(lambda axis: step), jax.jit(step)
    rows = devices.rows(16)
    for i in range(5):
        batch = data.batch(dataset.train, 16, 0, i)
        alone, loss = step(alone, *batch)
        split, split_loss = split_step(
            split, *devices.put(16, *jax.tree.map(lambda x: x[rows], batch))
        )
        np.testing.assert_allclose(split_loss, loss, rtol=1e-5)
    kernels = [x for x in jax.tree.leaves(split) if x.shape[-2:] == (32, 32)]
    assert len(kernels) >= 4
    for kernel in kernels:
        assert kernel.addressable_data(0).shape == (16, 16)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5),
        jax.device_get(devices.whole(split).params),
        jax.device_get(alone.params),
    )


def test_rows_of_a_batch_are_those_of_the_whole_batch():
    split = data.load("mnist_5k").train
    whole = data.batch(split, 16, 0, 3, "crop_flip")
    rows = np.array([1, 2, 9])
    part = data.batch(split, 16, 0, 3, "crop_flip", rows)
    for a, b in zip(part, whole, strict=True):
        np.testing.assert_array_equal(a, b[rows])


def test_a_mesh_that_does_not_fit_is_a_configuration_error():
    with pytest.raises(configuration.ConfigurationError, match="mesh: the sizes data=-1, fsdp=3"):
        fitting.load_data(tiny(mesh__fsdp=3))
    config = tiny(mesh__fsdp=2, parallel="pmap")
    model = fitting.make_model(config, fitting.load_data(config))
    with pytest.raises(configuration.ConfigurationError, match="parallel=pmap splits the batch"):
        fitting.make_devices(config, jax.eval_shape(model.init)[0])


def test_explicit_meshes_take_the_shardings():
    mesh = jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(AxisType.Explicit,) * 2)
    placed = jax.device_put(PARAMS, orthojax.shardings(PARAMS, PARAMS, mesh))
    assert placed["dense"]["kernel"].sharding.spec == PartitionSpec("fsdp", "tensor")
