import importlib.resources
import math

import numpy as np
from PIL import Image

from experiments.data import rand_augment


def change(name, image, strength):
    return np.asarray(rand_augment.CHANGES[name](Image.fromarray(image), strength))


def test_each_change_does_what_it_says():
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    assert len(rand_augment.NAMES) == 14
    np.testing.assert_array_equal(change("identity", image, 1), image)
    shift = int(150 / 331 * 60 / 2)
    moved = np.zeros_like(image)
    moved[:, :-shift] = image[:, shift:]
    np.testing.assert_array_equal(change("translate_x", image, 0.5), moved)
    moved = np.zeros_like(image)
    shift = int(150 / 331 * 40)
    moved[shift:] = image[:-shift]
    np.testing.assert_array_equal(change("translate_y", image, -1), moved)
    np.testing.assert_array_equal(
        change("solarize", image, -0.5), np.where(image < 127.5, image, 255 - image)
    )
    np.testing.assert_array_equal(change("posterize", image, 1), image & 0b11110000)
    np.testing.assert_array_equal(change("posterize", image, 0.3), image & 0b11111110)
    half = change("brightness", image, -0.5).astype(float)
    assert np.abs(half - 0.55 * image).max() <= 1
    grey = np.asarray(Image.fromarray(image).convert("L"), float)[..., None]
    faded = change("color", image, -1).astype(float)
    assert np.abs(faded - (0.1 * image + 0.9 * grey)).max() <= 1
    stretched = change("auto_contrast", image // 2 + 10, 1)
    assert stretched.min() == 0
    assert stretched.max() >= 254


def test_rotation_and_shear_move_points_where_they_should():
    image = np.zeros((101, 101, 3), np.uint8)
    image[49:52, 89:92] = 255  # 40 pixels to the right of the centre
    y, x = np.argwhere(change("rotate", image, 1)[..., 0] > 128).mean(axis=0)
    # Counter-clockwise; rows grow downwards.
    expected = 50 - 40 * math.sin(math.pi / 6), 50 + 40 * math.cos(math.pi / 6)
    np.testing.assert_allclose((y, x), expected, atol=0.7)
    y, x = np.argwhere(change("shear_x", image, 1)[..., 0] > 128).mean(axis=0)
    np.testing.assert_allclose((y, x), (50, 90 - 0.3 * 50), atol=0.7)
    y, x = np.argwhere(change("shear_y", image, 0.5)[..., 0] > 128).mean(axis=0)
    np.testing.assert_allclose((y, x), (50 - 0.15 * 90, 90), atol=0.7)


def test_weak_changes_change_little_and_strong_ones_much():
    folder = importlib.resources.files("sklearn") / "datasets" / "images"
    image = Image.open(folder / "china.jpg").resize((64, 64))
    names = ("rotate", "solarize", "color", "posterize", "contrast", "brightness", "sharpness")
    for name in (*names, "shear_x", "shear_y", "translate_x", "translate_y"):
        weak, strong = (
            np.abs(np.asarray(rand_augment.CHANGES[name](image, s), int) - np.asarray(image)).mean()
            for s in (1 / 30, 1.0)
        )
        assert weak < strong


def test_both_directions_and_all_changes_are_drawn(monkeypatch):
    drawn = []
    record = lambda name: lambda image, strength: drawn.append((name, strength)) or image
    monkeypatch.setattr(rand_augment, "CHANGES", {n: record(n) for n in rand_augment.NAMES})
    rng = np.random.default_rng(0)
    for _ in range(700):
        rand_augment.rand_augment(None, rng, 15)
    assert len(drawn) == 1400
    counts = {case: drawn.count(case) for case in set(drawn)}
    assert set(counts) == {(name, s) for name in rand_augment.NAMES for s in (-0.5, 0.5)}
    assert min(counts.values()) > 25  # 50 are expected
