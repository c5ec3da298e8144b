"""Writes the original files as tfds directories that `tfds.data_source` reads; series and texts as
they are.

tfds' own builders unpack and parse with TensorFlow. The ones here inherit name, version, features
and the order of the examples from them, and parse with NumPy instead.
"""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from experiments.data import originals, series, text
from experiments.data.releases import RELEASES, SERIES, TEXTS, Original

# fmt: off
CIFAR10_LABELS = [
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
]
# fmt: on


class Examples(NamedTuple):
    """The examples of one split, in the original order."""

    images: np.ndarray  # uint8 [N, H, W] or [N, H, W, 3]
    labels: dict[str, np.ndarray]  # tfds' name of a label -> uint8 [N]


class Contents(NamedTuple):
    """All that the files of a data set hold."""

    splits: dict[str, Examples]
    label_names: dict[str, list[str]]  # where tfds takes them from the files


def prepare(
    name: str,
    data_dir: str | os.PathLike,
    raw_dir: str | os.PathLike | None = None,
    release: Sequence[Original] | None = None,
) -> bool:
    """Makes `data_dir` hold the data set as array_record; False if it already does.

    An interrupted preparation leaves only an `incomplete` folder behind and can be repeated.

    Args:
        name: a key of `RELEASES`.
        data_dir: the tfds directory. Downloads are kept in its `downloads/<name>`.
        raw_dir: a folder with the original files, or with a folder `<name>` of them; by default
            they are downloaded.
        release: other files than the official ones, with their digests.

    Raises:
        FileNotFoundError, ConnectionError: an original file is missing.
        ValueError: an original file is not what it should be, or `data_dir` holds the set in
            another format.
    """
    data_dir = local(data_dir)
    if is_prepared(name, data_dir):
        return False
    release = release or RELEASES[name]
    if raw_dir is None:
        folder = data_dir / "downloads" / name
        originals.download(release, folder)
    else:
        folder = folder_in(raw_dir, name)
    contents = PARSERS[name](originals.read(release, folder))
    _builder(tfds.builder_cls(name), contents, data_dir).download_and_prepare()
    return True


def is_prepared(name: str, data_dir: Path) -> bool:
    """Whether `data_dir` holds the data set; a ValueError if it does in another format."""
    existing = tfds.builder(name, data_dir=data_dir)
    if not existing.is_prepared():
        return False
    if existing.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise ValueError(
            f"{existing.data_path} holds {name} as {existing.info.file_format.value}, not as "
            "array_record; give another --data_dir."
        )
    return True


def prepare_series(
    name: str,
    data_dir: str | os.PathLike,
    raw_dir: str | os.PathLike | None = None,
    original: Original | None = None,
) -> bool:
    """Puts the unchanged CSV of a key of `SERIES` into `data_dir`; False if it is there.

    Arguments and errors as for `prepare`; the folder in `raw_dir` may also be named `ett`.
    """
    path = series.csv_path(name, local(data_dir))
    return _place(path, original or SERIES[name], raw_dir, (name, "ett"))


def prepare_text(
    name: str,
    data_dir: str | os.PathLike,
    raw_dir: str | os.PathLike | None = None,
    original: Original | None = None,
) -> bool:
    """Puts the unchanged file of a key of `TEXTS` into `data_dir`; False if it is there.

    Arguments and errors as for `prepare`.
    """
    path = text.text_path(name, local(data_dir))
    return _place(path, original or TEXTS[name], raw_dir, (name,))


def _place(path, original, raw_dir, folders) -> bool:
    """Brings `original` to `path`, from one of the `folders` in `raw_dir` or from its publisher."""
    if path.exists():
        return False
    if raw_dir is None:
        originals.download([original], path.parent)
    else:
        content = originals.read([original], folder_in(raw_dir, *folders))[path.name]
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.part")
        partial.write_bytes(content)
        partial.replace(path)  # all or nothing
    return True


def local(data_dir: str | os.PathLike) -> Path:
    """Returns a path on this machine; raises a ValueError for another."""
    if "://" in os.fspath(data_dir):
        raise ValueError(
            f"--data_dir is a local folder, got {data_dir}; prepare there and copy the result."
        )
    return Path(data_dir).expanduser()


def folder_in(raw_dir: str | os.PathLike, *names: str) -> Path:
    """Returns the first of the folders `names` that `raw_dir` has, else `raw_dir` itself."""
    raw_dir = Path(raw_dir).expanduser()
    return next((raw_dir / name for name in names if (raw_dir / name).is_dir()), raw_dir)


def _builder(
    official: type[tfds.core.GeneratorBasedBuilder], contents: Contents, data_dir: Path
) -> tfds.core.GeneratorBasedBuilder:
    with tfds.core.registered.skip_registration():

        class Builder(official):
            name = official.name
            __module__ = official.__module__  # goes into dataset_info.json

            def _split_generators(self, dl_manager):
                del dl_manager
                for label, names in contents.label_names.items():
                    self.info.features[label].names = names
                has_id = "id" in self.info.features
                return {
                    split: _examples(f"{split}_" if has_id else None, examples)
                    for split, examples in contents.splits.items()
                }

    return Builder(data_dir=data_dir, file_format="array_record")


def _examples(id_prefix: str | None, examples: Examples) -> Iterator[tuple[int, dict]]:
    # Keys and ids as in tfds' builders: tfds orders the records by a hash of the key.
    for index, image in enumerate(examples.images):
        example = {label: int(values[index]) for label, values in examples.labels.items()}
        # As PNG: tfds encodes arrays with TensorFlow, and takes encoded bytes as they are.
        example["image"] = _png(image)
        if id_prefix:
            example["id"] = f"{id_prefix}{index:05d}"
        yield index, example


def _png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", compress_level=1)  # the default takes twice the time
    return file.getvalue()


def parse_mnist(contents: dict[str, bytes]) -> Contents:
    """Parses the four IDX files of MNIST or Fashion-MNIST."""
    splits = {}
    for split, prefix in {"train": "train", "test": "t10k"}.items():
        images = _parse_idx(f"{prefix}-images-idx3-ubyte", contents, dimensions=3)
        labels = _parse_idx(f"{prefix}-labels-idx1-ubyte", contents, dimensions=1)
        if len(images) != len(labels):
            raise ValueError(f"{prefix} files: {len(images)} images, but {len(labels)} labels.")
        splits[split] = Examples(images, {"label": labels})
    return Contents(splits, label_names={})


def _parse_idx(name: str, contents: dict[str, bytes], dimensions: int) -> np.ndarray:
    """IDX: two zero bytes, 8 for uint8, the number of dimensions, their big-endian sizes, data."""
    content = contents[name]
    header = 4 + 4 * dimensions
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) < header:
        raise ValueError(f"{name} is not an IDX file of uint8 with {dimensions} dimensions.")
    shape = np.frombuffer(content[4:header], ">u4")
    if len(content) - header != shape.prod(dtype=np.int64):
        raise ValueError(f"{name} announces shape {shape.tolist()}, has {len(content)} bytes.")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def parse_cifar10(contents: dict[str, bytes]) -> Contents:
    """Parses the six binary batches of CIFAR-10."""
    train = b"".join(contents[f"data_batch_{i}.bin"] for i in range(1, 6))
    splits = {"train": train, "test": contents["test_batch.bin"]}
    return Contents(
        {split: _parse_rows(split, rows, ["label"]) for split, rows in splits.items()},
        label_names={"label": CIFAR10_LABELS},
    )


def parse_cifar100(contents: dict[str, bytes]) -> Contents:
    """Parses the two binary files of CIFAR-100 and its two lists of names."""
    labels = ["coarse_label", "label"]
    return Contents(
        {
            split: _parse_rows(split, contents[f"{split}.bin"], labels)
            for split in ("train", "test")
        },
        label_names={
            "label": contents["fine_label_names.txt"].decode().split(),
            "coarse_label": contents["coarse_label_names.txt"].decode().split(),
        },
    )


def _parse_rows(split: str, content: bytes, labels: list[str]) -> Examples:
    """CIFAR's binary rows: a byte for each label, then 3 x 32 x 32 pixels, a plane a colour."""
    width = len(labels) + 3 * 32 * 32
    if len(content) % width:
        raise ValueError(f"The {split} rows are {width} bytes each, got {len(content)} in all.")
    rows = np.frombuffer(content, np.uint8).reshape(-1, width)
    images = rows[:, len(labels) :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Examples(
        np.ascontiguousarray(images), {label: rows[:, i] for i, label in enumerate(labels)}
    )


PARSERS: dict[str, Callable[[dict[str, bytes]], Contents]] = {
    "mnist": parse_mnist,
    "fashion_mnist": parse_mnist,
    "cifar10": parse_cifar10,
    "cifar100": parse_cifar100,
}
