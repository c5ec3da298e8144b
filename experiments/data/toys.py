"""Densities in the plane to draw from: points along curves with Gaussian noise, and a checkerboard.

A batch is a pure function of (name, seed, step). The true log-densities are known, hence the least
negative log-likelihood that a model can reach.
"""

import math

import numpy as np


def _moons(u):
    upper, angle = u < 0.5, 2 * np.pi * (u % 0.5)
    x = np.where(upper, np.cos(angle), 1 - np.cos(angle)) - 0.5
    return 1.5 * np.stack([x, np.where(upper, np.sin(angle), 0.5 - np.sin(angle)) - 0.25], axis=-1)


def _rings(u):
    radius, angle = 1 + np.floor(3 * u), 2 * np.pi * (3 * u % 1)
    return radius[..., None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def _spirals(u):
    sign, angle = np.where(u < 0.5, 1, -1), 3 * np.pi * np.sqrt(2 * u % 1)
    return (sign * angle / 3)[..., None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)


# {name: (u in [0, 1) -> point of the curve, standard deviation of the noise)}
CURVES = {"moons": (_moons, 0.15), "rings": (_rings, 0.1), "spirals": (_spirals, 0.1)}
NAMES = (*CURVES, "checkerboard")


def batch(name: str, size: int, seed: int, step: int, held_out: bool = False) -> np.ndarray:
    """Returns float32 points [size, 2] around the origin."""
    rng = np.random.default_rng([int(held_out), seed, step])
    if name == "checkerboard":  # The 8 dark ones of 4 x 4 unit squares.
        corner = rng.integers(0, [4, 2], (size, 2))
        corner[:, 1] = 2 * corner[:, 1] + corner[:, 0] % 2
        return (corner - 2 + rng.random((size, 2))).astype(np.float32)
    curve, deviation = CURVES[name]
    points = curve(rng.random(size)) + deviation * rng.standard_normal((size, 2))
    return points.astype(np.float32)


def log_density(name: str, points: np.ndarray, nodes: int = 1000) -> np.ndarray:
    """log p [N] in nats at `points` [N, 2]; of curves by the midpoint rule with so many nodes."""
    if name == "checkerboard":
        x, y = np.floor(points.T)
        dark = (np.abs(points) < 2).all(axis=-1) & ((x + y) % 2 == 0)
        return np.where(dark, -math.log(8), -np.inf)
    curve, deviation = CURVES[name]
    centers = curve((np.arange(nodes) + 0.5) / nodes)
    densities = []
    for part in np.array_split(np.asarray(points, np.float64), max(1, len(points) // 1000)):
        squares = ((part[:, None] - centers) ** 2).sum(axis=-1) / (2 * deviation**2)
        least = squares.min(axis=1, keepdims=True)
        densities.append(np.log(np.exp(least - squares).mean(axis=1)) - least[:, 0])
    return np.concatenate(densities) - math.log(2 * math.pi * deviation**2)
