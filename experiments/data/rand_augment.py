"""RandAugment: of fourteen changes of a picture, two in a row, drawn at random.

Cubuk et al. 2019, arXiv:1909.13719. The strengths are torchvision's (`torchvision.transforms.
RandAugment`): magnitude 30 is the strongest, e.g. a rotation by 30 degrees. The paper calls the
strongest 10, and goes beyond.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

LAYERS = 2
STRONGEST = 30  # magnitude


def rand_augment(image: Image.Image, rng: np.random.Generator, magnitude: int) -> Image.Image:
    """Returns an RGB picture, of the same size, after two changes with their direction at random.

    Pixels from beyond the picture are black.

    Args:
        image: RGB.
        rng: what is drawn from.
        magnitude: of each change, 0 to 30.
    """
    for _ in range(LAYERS):
        change = CHANGES[NAMES[rng.integers(len(NAMES))]]
        sign = 1 - 2 * rng.integers(2)
        image = change(image, sign * magnitude / STRONGEST)
    return image


def _affine(image, *inverse):
    """The pixel at (x, y) is that at (a x + b y + c, d x + e y + f)."""
    return image.transform(image.size, Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR)


def _rotate(image, strength):
    return image.rotate(30 * strength, Image.Resampling.BILINEAR)


def _shear_x(image, strength):
    return _affine(image, 1, 0.3 * strength, 0, 0, 1, 0)


def _shear_y(image, strength):
    return _affine(image, 1, 0, 0, 0.3 * strength, 1, 0)


def _translate_x(image, strength):
    return _affine(image, 1, 0, int(150 / 331 * image.width * strength), 0, 1, 0)


def _translate_y(image, strength):
    return _affine(image, 1, 0, 0, 0, 1, int(150 / 331 * image.height * strength))


def _solarize(image, strength):
    return ImageOps.solarize(image, 255 - 255 * abs(strength))


def _posterize(image, strength):
    return ImageOps.posterize(image, 8 - round(4 * abs(strength)))


def _enhance(kind):
    # 1 is the picture, 0 is no colour, no contrast, black, or blurred.
    return lambda image, strength: kind(image).enhance(1 + 0.9 * strength)


# (RGB picture, strength in [-1, 1]) -> RGB picture; those that know no direction take its size.
CHANGES: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "identity": lambda image, strength: image,
    "auto_contrast": lambda image, strength: ImageOps.autocontrast(image),
    "equalize": lambda image, strength: ImageOps.equalize(image),
    "rotate": _rotate,
    "solarize": _solarize,
    "color": _enhance(ImageEnhance.Color),
    "posterize": _posterize,
    "contrast": _enhance(ImageEnhance.Contrast),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
}
NAMES = tuple(CHANGES)
