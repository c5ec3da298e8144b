"""Writes the two archives of ImageNet-2012 as a tfds directory that `tfds.data_source` reads.

As in `prepare.py`, name, version, features and the order of the examples are those of tfds' own
builder, which needs TensorFlow. The pictures stay the JPEG files that they are.
"""

import io
import os
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.datasets.imagenet2012 import imagenet2012_dataset_builder as official

from experiments.data.prepare import folder_in, is_prepared, local

TRAIN, VALIDATION = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
# Bytes of the archives as published. Their digests, of 138 GB, would take longer than is gained.
SIZES = {TRAIN: 147_897_477_120, VALIDATION: 6_744_924_160}


def prepare_imagenet(
    name: str,
    data_dir: str | os.PathLike,
    raw_dir: str | os.PathLike | None,
    sizes: Mapping[str, int] = SIZES,
) -> bool:
    """Makes `data_dir` hold ImageNet-2012 as array_record; False if it already does.

    Args:
        name: "imagenet2012".
        data_dir: the tfds directory.
        raw_dir: a folder with the two archives, or with a folder `imagenet2012` of them.
        sizes: bytes of the archives, by name.

    Raises:
        FileNotFoundError: an archive is missing.
        ValueError: there is no `raw_dir`, an archive is damaged, or `data_dir` holds the set in
            another format.
    """
    data_dir = local(data_dir)
    if is_prepared(name, data_dir):
        return False
    if raw_dir is None:
        raise ValueError(
            f"{name} cannot be downloaded without an account: register on "
            f"https://image-net.org/download-images, fetch {TRAIN} and {VALIDATION}, and pass "
            "their folder as --raw_dir=FOLDER."
        )
    archives = {file: folder_in(raw_dir, name) / file for file in (TRAIN, VALIDATION)}
    for file, path in archives.items():
        if not path.is_file():
            raise FileNotFoundError(f"{path.parent} does not have {file}.")
        if path.stat().st_size != sizes[file]:
            raise ValueError(
                f"{path} is not the original: it has {path.stat().st_size} bytes instead of "
                f"{sizes[file]}; fetch it again."
            )
    try:
        _builder(archives, data_dir).download_and_prepare()
    except tarfile.TarError as error:
        raise ValueError(f"an archive in {path.parent} is damaged: {error}") from error
    return True


def _builder(archives: Mapping[str, Path], data_dir: Path) -> tfds.core.GeneratorBasedBuilder:
    with tfds.core.registered.skip_registration():

        class Builder(official.Builder):
            name = "imagenet2012"
            __module__ = official.__name__  # goes into dataset_info.json
            pkg_dir_path = official.Builder.pkg_dir_path

            def _split_generators(self, dl_manager):
                del dl_manager
                return {
                    "train": _train_examples(archives[TRAIN]),
                    "validation": _validation_examples(archives[VALIDATION]),
                }

    return Builder(data_dir=data_dir, file_format="array_record")


def _train_examples(path: Path) -> Iterator[tuple[str, dict]]:
    """The archive holds one of pictures for each class, called <class>.tar."""
    for name, of_a_class in _members(path.open("rb")):
        for picture, file in _members(of_a_class):
            yield _example(picture, file.read(), Path(name).stem)


def _validation_examples(path: Path) -> Iterator[tuple[str, dict]]:
    """The pictures are ILSVRC2012_val_00000001.JPEG, ...: the lines of tfds' list of classes."""
    classes = Path(tfds.core.tfds_path("datasets/imagenet2012/validation_labels.txt"))
    classes = classes.read_text().split()
    for picture, file in _members(path.open("rb")):
        number = int(Path(picture).stem.rpartition("_")[-1])
        yield _example(picture, file.read(), classes[number - 1])


def _members(file: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
    with file, tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            if member.isfile():
                yield member.name, archive.extractfile(member)


def _example(picture: str, content: bytes, label: str) -> tuple[str, dict]:
    # The key as in tfds' builder: tfds orders the records by a hash of it.
    if picture in official.CMYK_IMAGES or picture in official.PNG_IMAGES:
        content = rgb_jpeg(content)
    return picture, {"file_name": picture, "image": content, "label": label}


def rgb_jpeg(content: bytes) -> bytes:
    """Returns a picture, e.g. a JPEG of CMYK or a PNG, as a JPEG of RGB, of the best quality."""
    file = io.BytesIO()
    Image.open(io.BytesIO(content)).convert("RGB").save(file, "JPEG", quality=100, subsampling=0)
    return file.getvalue()
