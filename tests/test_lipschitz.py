"""Networks that do not stretch: activation, certificates, the networks of the experiments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from matrices_of import defect, gaussian, orthonormal

from experiments import configuration, data, models, tasks
from experiments.configs import (
    lipschitz_cifar10,
    lipschitz_cifar10_small,
    resnet18_cifar10,
    resnet_cifar10_small,
)
from orthojax import lipschitz, matrices


def test_group_sort_sorts_groups_and_keeps_lengths_of_gradients(x64):
    x = gaussian(0, (5, 12))
    x[0] = 0.0  # Ties.
    for size in (2, 3, 12):
        expected = -np.sort(-x.reshape(5, -1, size)).reshape(5, 12)
        np.testing.assert_array_equal(lipschitz.group_sort(jnp.asarray(x), size), expected)
    jacobian = jax.jit(jax.jacobian(lambda x: lipschitz.group_sort(x, 3)))
    for row in x[:2]:
        assert defect(jacobian(row)) == 0


def test_certified_radius_is_the_distance_to_the_border_of_a_linear_classifier(x64):
    kernel, h, labels = gaussian(1, (6, 4)), gaussian(2, (20, 6)), np.arange(20) % 4
    logits = h @ kernel
    radii = np.asarray(lipschitz.certified_radius(logits, labels, kernel=jnp.asarray(kernel)))
    right = logits.argmax(1) == labels
    assert right.any()
    assert (radii[~right] == 0).all()
    for i in np.flatnonzero(right):
        # For linear classifiers it is exact: so far towards the nearest border, and no farther.
        y = labels[i]
        normals = [kernel[:, y] - kernel[:, j] for j in range(4) if j != y]
        distances = [h[i] @ n / np.linalg.norm(n) for n in normals]
        np.testing.assert_allclose(radii[i], min(distances), rtol=1e-12)
    half = lipschitz.certified_radius(logits, labels, 2.0, jnp.asarray(kernel))
    np.testing.assert_allclose(half, radii / 2)
    columns = orthonormal(3, (6, 4))
    np.testing.assert_allclose(
        lipschitz.certified_radius(h @ columns, labels),
        lipschitz.certified_radius(h @ columns, labels, kernel=jnp.asarray(columns)),
    )


def test_group_sort_says_which_sizes_fit():
    with pytest.raises(ValueError, match=r"size=3 for x of shape \(4,\)"):
        lipschitz.group_sort(jnp.ones(4), 3)


def cifar_like(name="cifar10"):
    arguments = {"image_shape": (16, 16, 3), "num_classes": 10}
    return data.Dataset(name, "classification", None, None, None, arguments, (0.5, 0.4, 0.3), (1,))


def test_the_task_certifies_in_pixels_from_0_to_1():
    task = tasks.TASKS["certified_classification"](cifar_like(), 0.0)
    images = np.zeros((1, 2, 2, 3), np.uint8)
    far = images + np.uint8(51)  # Each of 12 numbers by a fifth.
    moved = np.linalg.norm(task.preprocess(far) - task.preprocess(images))
    np.testing.assert_allclose(moved, 12**0.5 / 5, rtol=1e-6)
    margin = 2**0.5 * 36 / 255
    logits = np.zeros((3, 10), np.float32)
    logits[:, 7] = 1.001 * margin, 0.999 * margin, -1
    labels = np.full(3, 7)
    np.testing.assert_array_equal(task.measures["accuracy"](logits, labels), [1, 1, 0])
    np.testing.assert_array_equal(task.measures["certified_accuracy"](logits, labels), [1, 0, 0])
    # Beyond the margin that it asks for the loss is near 0.
    loss = task.loss(10 * logits, labels)
    assert 0 <= loss[0] < 1e-3 < 10 < loss[2]


@pytest.mark.parametrize("convolution", ["cayley", "block", "reshaped"])
def test_the_network_does_not_stretch(convolution):
    @jax.jit
    def jacobian(x):
        options = {"channels": (4, 6), "depth": 1, "width": 20, "convolution": convolution}
        arguments = {"image_shape": (12, 12, 1), "num_classes": 3}
        model = models.build("lipschitz_cnn", arguments, nnx.Rngs(0), **options)
        return jax.jacrev(lambda x: model(x[None])[0])(x)

    values = np.linalg.svd(jacobian(gaussian(0, (12, 12, 1), np.float32)).reshape(3, -1))[1]
    assert values.max() < 1 + 1e-5
    if convolution == "reshaped":
        assert values.max() < 0.9
    else:  # Orthonormal rows of the whole are more than the parts grant.
        assert values.min() > 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [({"channels": (3,)}, "are even, got"), ({"channels": (4,) * 6}, "multiples of 64 pixels")],
)
def test_networks_that_do_not_fit_say_so(options, message):
    options = {"depth": 1, "width": 8, "convolution": "block"} | options
    with pytest.raises(ValueError, match=message):
        models.build("lipschitz_cnn", cifar_like().model_arguments, nnx.Rngs(0), **options)


def shapes_of(config, size=32):
    """Parameters of the model of `config`, without arrays."""
    arguments = {"image_shape": (size, size, 3), "num_classes": 10}
    options = config.model.to_dict()
    make = lambda: models.build(options.pop("name"), arguments, nnx.Rngs(0), **options)
    return nnx.to_pure_dict(nnx.state(nnx.eval_shape(make), nnx.Param))


def test_resnet_18_has_the_size_of_others():
    params = shapes_of(resnet18_cifar10.get_config())
    # That of kuangliu/pytorch-cifar.
    assert sum(x.size for x in jax.tree.leaves(params)) == 11_173_962
    found = matrices.constrained(params, resnet18_cifar10.get_config().constraint.rules)
    assert len(found) == 20  # All kernels but that of the head.


def test_resnet_normalizes_and_halves():
    @jax.jit
    def logits(x):
        arguments = {"image_shape": (8, 8, 3), "num_classes": 5}
        model = models.build("resnet", arguments, nnx.Rngs(0), channels=(4, 6, 8), depth=1)
        return model(x), model(3 * x)

    once, scaled = logits(gaussian(0, (4, 8, 8, 3), np.float32))
    assert once.shape == (4, 5)
    np.testing.assert_allclose(once, scaled, atol=1e-3)


@pytest.mark.parametrize(
    "module",
    [lipschitz_cifar10, lipschitz_cifar10_small, resnet18_cifar10, resnet_cifar10_small],
)
def test_configurations_are_right_and_their_rules_fit(module):
    for arm in configuration.arms(module.get_config()).values():
        found = matrices.constrained(shapes_of(arm), arm.constraint.rules)
        names = [name for name in found if name.endswith(("head/kernel", "projectors"))]
        if arm.model.name == "lipschitz_cnn":
            blocks = 6 if module is lipschitz_cifar10_small else 15
            assert len(names) == 1 + blocks * (arm.model.convolution == "block")
        else:
            assert not names
