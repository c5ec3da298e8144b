import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from runs import assert_same_arrays

from experiments import data, tasks

SEED = 7


def test_mixup_mixes_pairs_by_one_weight():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 5, 5, 3), dtype=np.uint8)
    labels = np.array([2, 0, 1, 1], np.int32)
    mixed, targets = data.mixup(images, labels, 3, 0.5, SEED, 9, np.arange(4))
    assert (mixed.dtype, targets.dtype, targets.shape) == (np.uint8, np.float32, (4, 3))
    w = float(targets[0, 2])
    assert 0 < w < 1
    expected = [[0, 0, w], [0, 0, 0], [0, 1, 0], [0, 1, 0]]
    expected[0][0], expected[1] = 1 - w, [w, 0, 1 - w]
    np.testing.assert_allclose(targets, expected, atol=1e-6)
    partners = images[[1, 0, 3, 2]]
    np.testing.assert_allclose(mixed, w * images + (1 - w) * partners, atol=0.51)


def test_the_weights_of_mixup_are_beta_distributed():
    image, labels = np.zeros((2, 1, 1, 1), np.uint8), np.array([0, 1])
    alpha = 0.4
    weights = [
        data.mixup(image, labels, 2, alpha, 0, step, np.arange(2))[1][0, 0] for step in range(2000)
    ]
    np.testing.assert_allclose(np.mean(weights), 0.5, atol=0.03)
    np.testing.assert_allclose(np.var(weights), 1 / (4 * (2 * alpha + 1)), atol=0.01)


@pytest.mark.parametrize("rows", [[0], [1, 2], [0, 2], [0, 1, 2]])
def test_mixup_refuses_rows_without_their_partners(rows):
    images, labels = np.zeros((len(rows), 1, 1, 1), np.uint8), np.zeros(len(rows), np.int32)
    with pytest.raises(ValueError, match="pairs of rows"):
        data.mixup(images, labels, 2, 1.0, 0, 0, np.array(rows))


def test_arrays_are_mixed_too():
    digits = data.load("mnist_5k")
    batches = data.Batches(digits, 8, SEED, "crop_flip", np.arange(8), 0.3)
    plain = data.batch(digits.train, 8, SEED, 2, "crop_flip")
    assert_same_arrays(batches(2), data.mixup(*plain, 10, 0.3, SEED, 2, np.arange(8)))
    assert data.Batches(digits, 8, SEED, "none", np.arange(8))(2)[1].dtype == np.int32


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_takes_classes_and_probabilities(smoothing):
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(5, 4)), jnp.float32)
    labels, targets = np.array([0, 3, 1, 1, 2]), rng.dirichlet(np.ones(4), 5).astype(np.float32)
    task = tasks.classification(None, smoothing)
    one_hot = np.eye(4, dtype=np.float32)[labels]
    for measure in (task.loss, *task.measures.values()):
        np.testing.assert_allclose(measure(logits, one_hot), measure(logits, labels), atol=1e-6)
    smoothed = (1 - smoothing) * targets + smoothing / 4
    logs = np.asarray(jax.nn.log_softmax(logits))
    np.testing.assert_allclose(task.loss(logits, targets), -(smoothed * logs).sum(1), atol=1e-6)
    right = logits.argmax(1) == targets.argmax(1)
    np.testing.assert_array_equal(task.measures["accuracy"](logits, targets), right)


def test_the_program_for_classes_is_that_of_optax():
    example = jnp.zeros((5, 4)), jnp.zeros(5, jnp.int32)
    ours = jax.jit(lambda x, y: tasks.classification(None, 0.0).loss(x, y)).lower(*example)
    theirs = jax.jit(lambda x, y: optax.softmax_cross_entropy_with_integer_labels(x, y))
    assert ours.as_text() == theirs.lower(*example).as_text()
