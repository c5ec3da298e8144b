"""ImageNet's pipeline, from archives of real photographs to batches."""

import importlib.resources
import io
import math
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import TINY, assert_same_arrays, tiny

from experiments import configuration, data, fitting, run
from experiments.data import imagenet, pictures

SCRIPT = Path(__file__).parents[1] / "scripts" / "prepare_data.py"
SIZE, BATCH, SEED = 32, 6, 7
LABELS = [65, 970, 230]  # of the first pictures for validation, as published


def photographs():
    """Three that installed packages ship: two of 640 x 427 pixels, one of 512 x 600."""
    files = importlib.resources.files
    folder = files("sklearn") / "datasets" / "images"
    hopper = files("matplotlib") / "mpl-data" / "sample_data" / "grace_hopper.jpg"
    return [path.read_bytes() for path in (folder / "china.jpg", folder / "flower.jpg", hopper)]


PHOTOS = photographs()


def opened(content):
    return Image.open(io.BytesIO(content))


def encoded(image, form="JPEG"):
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


def tar(members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


CMYK = encoded(opened(PHOTOS[1]).convert("CMYK"))
GREY = encoded(opened(PHOTOS[0]).convert("L"))
TRAIN = {
    "n01440764": {f"n01440764_{i}.JPEG": PHOTOS[i % 3] for i in range(5)} | {"g.JPEG": GREY},
    "n01739381": {f"n01739381_{i}.JPEG": PHOTOS[i % 3] for i in range(5)}
    | {"n01739381_1309.JPEG": CMYK},  # one of the 22 that are known to be so
    "n02105855": {"n02105855_2933.JPEG": encoded(opened(PHOTOS[2]), "PNG")},  # the only one
}


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """(folder of the archives, their sizes)"""
    folder = tmp_path_factory.mktemp("archives")
    train = tar({f"{name}.tar": tar(members) for name, members in TRAIN.items()})
    test = {f"ILSVRC2012_val_{i + 1:08d}.JPEG": PHOTOS[i] for i in (1, 0, 2)}  # in no order
    (folder / imagenet.TRAIN).write_bytes(train)
    (folder / imagenet.VALIDATION).write_bytes(tar(test))
    return folder, {name: (folder / name).stat().st_size for name in imagenet.SIZES}


@pytest.fixture(scope="module")
def prepared(archives, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    assert imagenet.prepare_imagenet("imagenet2012", folder, *archives)
    return folder


def load(prepared, **options):
    options = {"size": SIZE, "magnitude": 9, "workers": 1} | options
    return data.load("imagenet2012", prepared, **options)


@pytest.fixture(scope="module")
def dataset(prepared):
    return load(prepared)


# Preparation.


def test_the_archives_become_both_splits_with_their_classes(dataset):
    assert (len(dataset.train), len(dataset.test), dataset.validation) == (13, 3, None)
    assert dataset.model_arguments == {"image_shape": (SIZE, SIZE, 3), "num_classes": 1000}
    records = {
        bytes(r["file_name"]).decode(): r for r in map(dataset.train.records.__getitem__, range(13))
    }
    classes = {"n01440764": 0, "n01739381": 59, "n02105855": 230}
    for name, members in TRAIN.items():
        for picture in members:
            assert records[picture]["label"] == classes[name]
    assert records["n01440764_1.JPEG"]["image"] == PHOTOS[1]  # not encoded anew
    found = {
        bytes(r["file_name"])[-6:-5]: r for r in map(dataset.test.records.__getitem__, range(3))
    }
    for i, label in enumerate(LABELS):
        record = found[str(i + 1).encode()]
        assert (record["image"], record["label"]) == (PHOTOS[i], label)
    for picture in ("n01739381_1309.JPEG", "n02105855_2933.JPEG"):
        image = opened(records[picture]["image"])
        assert (image.format, image.mode) == ("JPEG", "RGB")


def test_preparing_again_changes_nothing(prepared):
    assert not imagenet.prepare_imagenet("imagenet2012", prepared, None)


def test_missing_and_cut_archives_are_named(archives, tmp_path):
    folder, sizes = archives
    with pytest.raises(ValueError, match=r"register on https://image-net\.org.*--raw_dir="):
        imagenet.prepare_imagenet("imagenet2012", tmp_path / "tfds", None)
    with pytest.raises(FileNotFoundError, match=r"does not have ILSVRC2012_img_train\.tar"):
        imagenet.prepare_imagenet("imagenet2012", tmp_path / "tfds", tmp_path)
    with pytest.raises(
        ValueError, match=r"train\.tar is not the original.*instead of 147897477120"
    ):
        imagenet.prepare_imagenet("imagenet2012", tmp_path / "tfds", folder)
    (tmp_path / imagenet.VALIDATION).write_bytes((folder / imagenet.VALIDATION).read_bytes())
    (tmp_path / imagenet.TRAIN).write_bytes(b"x" * sizes[imagenet.TRAIN])
    with pytest.raises(ValueError, match=r"an archive in .* is damaged"):
        imagenet.prepare_imagenet("imagenet2012", tmp_path / "tfds", tmp_path, sizes)


@pytest.mark.slow
def test_the_script_says_where_to_register(tmp_path):
    command = [sys.executable, SCRIPT, "--dataset=imagenet2012", f"--data_dir={tmp_path}"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "register on https://image-net.org" in line
    assert "--raw_dir=" in line


def test_a_set_that_is_not_prepared_is_answered_with_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"prepare_data\.py --dataset=imagenet2012"):
        load(tmp_path)


# Decoding.


@pytest.mark.parametrize("photo", range(3))
def test_evaluation_is_the_centre_of_the_resized_picture(photo):
    image = opened(PHOTOS[photo])
    w, h = image.size
    whole = (256, round(256 * h / w)) if w < h else (round(256 * w / h), 256)
    left, top = (whole[0] - 224) // 2, (whole[1] - 224) // 2
    expected = image.resize(whole, Image.BICUBIC).crop((left, top, left + 224, top + 224))
    got = np.asarray(pictures.centre_crop(image, 224), int)
    difference = np.abs(got - np.asarray(expected, int))
    assert difference.max() <= 1
    assert np.mean(difference > 0) < 1e-3


def test_grey_and_cmyk_pictures_become_rgb():
    records = [{"image": x, "label": 3} for x in (GREY, CMYK)]
    split = data.Pictures(records, SIZE, 9, 1)
    images, labels = split.take([0, 1])
    assert (images.shape, images.dtype, labels.dtype) == ((2, SIZE, SIZE, 3), np.uint8, np.int32)
    assert np.array_equal(images[0, ..., 0], images[0, ..., 2])
    expected = np.asarray(pictures.centre_crop(opened(PHOTOS[1]), SIZE), int)
    assert np.abs(images[1] - expected).mean() < 5  # encoded once more
    for augment in ("resized_crop", "rand_augment"):
        image, _ = split.augmented(1, augment, np.random.default_rng(0))
        assert image.shape == (SIZE, SIZE, 3)


def test_random_boxes_lie_in_the_picture_and_are_distributed_as_they_should():
    rng = np.random.default_rng(0)
    boxes = np.array([pictures.random_box(640, 640, rng) for _ in range(4000)])
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert boxes.min() >= 0
    assert boxes.max() <= 640
    shares, aspects = widths * heights / 640**2, np.log(widths / heights)
    assert 0.079 < shares.min() < 0.085
    small = shares[shares < 0.5]  # every shape of these fits: they stay uniform
    np.testing.assert_allclose(small.mean(), (0.08 + 0.5) / 2, atol=0.01)
    aspects = aspects[shares < 0.5]
    assert np.abs(aspects).max() < math.log(4 / 3) + 0.02
    np.testing.assert_allclose(aspects.mean(), 0, atol=0.02)
    np.testing.assert_allclose(aspects.std(), 2 * math.log(4 / 3) / math.sqrt(12), atol=0.01)
    lefts = boxes[:, 0] / np.maximum(640 - widths, 1)
    np.testing.assert_allclose(lefts.mean(), 0.5, atol=0.02)


@pytest.mark.parametrize(
    ("size", "box"), [((3000, 100), (1433, 0, 1566, 100)), ((100, 3000), (0, 1433, 100, 1566))]
)
def test_where_no_box_fits_the_centre_is_taken(size, box):
    assert pictures.random_box(*size, np.random.default_rng(0)) == box


def test_a_large_part_is_decoded_small_but_is_the_same_part():
    content = encoded(opened(PHOTOS[0]).resize((1280, 854), Image.BICUBIC))
    box = (100, 50, 1200, 820)
    got = np.asarray(pictures.resized_crop(opened(content), box, 64), int)
    expected = opened(content).crop(box).resize((64, 64), Image.BILINEAR)
    assert np.abs(got - np.asarray(expected, int)).mean() < 4
    small = (100, 50, 200, 130)  # nothing to gain here
    got = np.asarray(pictures.resized_crop(opened(content), small, 64), int)
    expected = opened(content).resize((64, 64), Image.BILINEAR, small)
    np.testing.assert_array_equal(got, np.asarray(expected))


# Batches.


@pytest.mark.parametrize("augment", ["none", "resized_crop", "rand_augment"])
def test_batches_made_ahead_are_those_of_their_steps(dataset, augment):
    batches = data.Batches(dataset, BATCH, SEED, augment, np.arange(BATCH))
    for step in (0, 1, 2, 5, 6, 3):  # in order, later, and before
        images, labels = data.batch(dataset.train, BATCH, SEED, step, augment)
        assert (images.shape, images.dtype) == ((BATCH, SIZE, SIZE, 3), np.uint8)
        got = batches(step)
        np.testing.assert_array_equal(got[0], images)
        np.testing.assert_array_equal(got[1], labels)
    assert batches(3) is got
    batches.close()
    np.testing.assert_array_equal(batches(4)[1], data.batch(dataset.train, BATCH, SEED, 4)[1])
    batches.close()


def test_an_iterator_begun_later_gives_the_bytes_of_the_uninterrupted_one(dataset):
    arguments = BATCH, SEED, "rand_augment", np.arange(BATCH), 0.3
    whole, resumed = data.Batches(dataset, *arguments), data.Batches(dataset, *arguments)
    before = [whole(step) for step in range(8)]
    after = [resumed(step) for step in range(5, 8)]
    assert_same_arrays(before[5:], after)
    for batches in (whole, resumed):
        batches.close()


@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_the_rows_of_two_processes_make_up_the_batch(dataset, alpha):
    def batch(rows):
        batches = data.Batches(dataset, BATCH, SEED, "resized_crop", np.array(rows), alpha)
        found = batches(1)
        batches.close()
        return found

    parts = batch([0, 1, 4, 5]), batch([2, 3])
    together = [np.concatenate([x[:2], y, x[2:]]) for x, y in zip(*parts, strict=True)]
    assert_same_arrays(together, list(batch(range(BATCH))))


def test_examples_differ_between_rows_steps_and_seeds():
    records = [{"image": PHOTOS[0], "label": 0}] * 8
    split = data.Pictures(records, 16, 9, 1)
    drawn = {
        image.tobytes()
        for seed in (0, 2**32)
        for step in (0, 1)
        for image in data.batch(split, 8, seed, step, "resized_crop")[0]
    }
    assert len(drawn) == 32


def test_evaluation_sees_each_picture_once(dataset):
    whole, _ = dataset.test.take(np.arange(3))
    batches = list(data.eval_batches(dataset.test, 2))
    masks = np.concatenate([mask for *_, mask in batches])
    assert masks.tolist() == [1, 1, 1, 0]
    np.testing.assert_array_equal(np.concatenate([x for x, *_ in batches])[:3], whole)
    part = list(data.eval_batches(dataset.test, 2, rows=np.array([1])))
    np.testing.assert_array_equal(part[0][0], whole[1:2])
    assert [mask.tolist() for *_, mask in part] == [[1], [0]]


@pytest.mark.slow
def test_processes_give_the_bytes_of_threads_and_end(prepared, dataset):
    import multiprocessing

    arguments = BATCH, SEED, "rand_augment", np.arange(BATCH), 0.3
    threads = data.Batches(dataset, *arguments)
    processes = data.Batches(load(prepared, workers=2), *arguments)
    assert_same_arrays([threads(s) for s in range(4)], [processes(s) for s in range(4)])
    assert len(multiprocessing.active_children()) == 2
    for batches in (threads, processes):
        batches.close()
    assert not multiprocessing.active_children()
    both = [list(data.eval_batches(load(prepared, workers=w).test, 2)) for w in (1, 2)]
    assert_same_arrays(*both)
    evaluation = data.eval_batches(load(prepared, workers=2).test, 1)
    next(evaluation)
    evaluation.close()
    assert not multiprocessing.active_children()


# Runs.


def config(prepared, **overrides):
    base = TINY | {"steps": 6, "batch_size": 4, "eval_batch_size": 2, "checkpoint_every": 100}
    base |= {"eval_every": 6, "constraint.map": "none", "constraint.rebase_every": 0}
    fields = {"name": "imagenet2012", "dir": str(prepared), "augment": "rand_augment"}
    fields |= {"size": 8, "magnitude": 9, "workers": 1, "mixup": 0.2}
    made = tiny(base).copy_and_resolve_references().unlock()
    made.data = fields | {k: overrides.pop(k) for k in fields.keys() & overrides.keys()}
    made.update(overrides)
    configuration.check(made)
    return made.lock()


def test_wrong_combinations_are_told_in_one_line(prepared, one_device):
    for field, wrong, message in (
        ("augment", "crop_flip", "data.augment=crop_flip is not for the encoded pictures"),
        ("magnitude", 31, "`magnitude` lies between 1 and 30, the strongest, got 31"),
        ("batch_size", 3, "data.mixup mixes pairs"),
    ):
        with pytest.raises(configuration.ConfigurationError, match=message) as raised:
            fitting.load_data(config(prepared, **{field: wrong}))
        assert "\n" not in str(raised.value)
    digits = tiny().copy_and_resolve_references().unlock()
    digits.data.augment = "resized_crop"
    message = "data.augment=resized_crop is not for the arrays.*one of none, crop_flip"
    with pytest.raises(configuration.ConfigurationError, match=message):
        fitting.load_data(digits)
    for mixup, message in ((-0.1, "must not be negative"), (1, "must be float")):
        with pytest.raises(configuration.ConfigurationError, match=f"data.mixup {message}"):
            config(prepared, mixup=mixup)
    with pytest.raises(configuration.ConfigurationError, match=r"data\.workers must be a positive"):
        config(prepared, workers=0)


@pytest.mark.slow
def test_a_resumed_run_is_the_uninterrupted_one(prepared, tmp_path, one_device):
    whole = run.train(config(prepared), tmp_path / "whole")
    run.train(config(prepared), tmp_path / "resumed", until=3)
    resumed = run.train(config(prepared), tmp_path / "resumed")
    assert int(resumed.step) == 6
    assert_same_arrays(whole, resumed)
    rows = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "resumed")]
    assert "test_accuracy" in rows[0]
