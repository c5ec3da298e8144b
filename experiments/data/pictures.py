"""Pictures that stay encoded until they are asked for: decoding, cropping, resizing by Pillow."""

import dataclasses
import io
import math
from typing import Any

import numpy as np
from PIL import Image

from experiments.data.rand_augment import STRONGEST, rand_augment

AUGMENTS = ("none", "resized_crop", "rand_augment")
SHOWN = 0.875  # part of the shorter side that is left for evaluation: 224 of 256 pixels

# Of ImageNet, by channel, as everyone has them.
MEAN_AND_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Szegedy et al. 2014, arXiv:1409.4842, section 6.
AREA = 0.08, 1.0
ASPECT = 3 / 4, 4 / 3
TRIES = 10


@dataclasses.dataclass(frozen=True, eq=False)
class Pictures:
    """A split of encoded pictures of any size with their classes; decoded, uint8
    [size, size, 3]."""

    records: Any  # index -> {"image": bytes, "label": int}; has a length; can be pickled
    size: int
    magnitude: int  # of RandAugment
    workers: int  # processes that decode ahead; 1: threads of this one

    def __post_init__(self):
        if not 1 <= self.magnitude <= STRONGEST:
            raise ValueError(
                f"`magnitude` lies between 1 and {STRONGEST}, the strongest, got {self.magnitude}."
            )

    def __len__(self) -> int:
        return len(self.records)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.size, self.size, 3

    def take(self, indices) -> tuple[np.ndarray, np.ndarray]:
        """Returns images uint8 [B, size, size, 3], as for evaluation, and classes int32 [B]."""
        return stack([self.example(index) for index in indices])

    def example(self, index: int) -> tuple[np.ndarray, np.int32]:
        """Returns the centre of a picture, as for evaluation, and its class."""
        image, label = self._open(index)
        return np.asarray(centre_crop(image, self.size)), label

    def augmented(
        self, index: int, augment: str, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.int32]:
        """Returns a picture, changed at random as `augment` says, and its class.

        "resized_crop": a part of it at random, half of them mirrored; "rand_augment": besides, the
        changes of `rand_augment`; "none": as for evaluation.
        """
        if augment not in AUGMENTS:
            raise ValueError(
                f"`augment` of encoded pictures is one of {', '.join(AUGMENTS)}, got {augment!r}."
            )
        if augment == "none":
            return self.example(index)
        image, label = self._open(index)
        image = resized_crop(image, random_box(*image.size, rng), self.size)
        if rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if augment == "rand_augment":
            image = rand_augment(image, rng, self.magnitude)
        return np.asarray(image), label

    def _open(self, index):
        record = self.records[int(index)]
        return Image.open(io.BytesIO(record["image"])), np.int32(record["label"])


def records(builder, split: str):
    """Returns the `Pictures.records` of a split of a prepared tfds set."""
    import tensorflow_datasets as tfds

    return builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})


def stack(examples) -> tuple[np.ndarray, np.ndarray]:
    """[(image, class), ...] -> images, classes."""
    images, labels = zip(*examples, strict=True)
    return np.stack(images), np.array(labels, np.int32)


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """Resizes, bicubically, so that the shorter side has size / 0.875 pixels; cuts out the
    central square of `size`, as RGB."""
    scale = min(image.size) / round(size / SHOWN)
    whole = [round(side / scale) for side in image.size]
    # Only the square is computed, from the same pixels and with the same weights.
    starts = [(side - size) // 2 for side in whole]
    box = [
        pixel * side / resized
        for pixels in (starts, [start + size for start in starts])
        for pixel, side, resized in zip(pixels, image.size, whole, strict=True)
    ]
    return _rgb(image).resize((size, size), Image.Resampling.BICUBIC, box)


def random_box(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Draws (left, top, right, bottom) of a part of a picture: its share of the area is uniform in
    [0.08, 1], the logarithm of width / height uniform between those of 3/4 and 4/3.

    After ten tries that do not fit into the picture, the largest central part of such a shape. As
    in torchvision's RandomResizedCrop.
    """
    for _ in range(TRIES):
        area = width * height * rng.uniform(*AREA)
        aspect = math.exp(rng.uniform(*map(math.log, ASPECT)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = (int(rng.integers(room + 1)) for room in (width - w, height - h))
            return left, top, left + w, top + h
    w = min(width, round(height * ASPECT[1]))
    h = min(height, round(width / ASPECT[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def resized_crop(image: Image.Image, box: tuple[int, int, int, int], size: int) -> Image.Image:
    """Resizes a part of a picture to the square of `size`, bilinearly, as RGB."""
    width, height = image.size
    reduction = min(box[2] - box[0], box[3] - box[1]) // size
    if reduction > 1:
        # A JPEG is decoded to 1/2, 1/4 or 1/8 for less. Of pictures of 500 x 375 pixels no part is
        # large enough for that; those of 1600 x 1200 take half the time.
        image.draft(None, (width // reduction, height // reduction))
    x, y = image.width / width, image.height / height
    box = (box[0] * x, box[1] * y, box[2] * x, box[3] * y)
    return _rgb(image).resize((size, size), Image.Resampling.BILINEAR, box)


def _rgb(image):
    return image if image.mode == "RGB" else image.convert("RGB")
