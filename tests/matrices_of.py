"""Random matrices for the tests, by NumPy: independent of the code under test."""

import numpy as np


def gaussian(seed, shape, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def orthonormal(seed, shape, dtype=np.float64):
    """Orthonormal columns [..., n, p], n >= p."""
    q, r = np.linalg.qr(gaussian(seed, shape))
    return (q * np.sign(np.diagonal(r, axis1=-2, axis2=-1))[..., None, :]).astype(dtype)


def defect(w):
    """max |W'W - I| in float64."""
    w = np.asarray(w, np.float64)
    return np.abs(np.swapaxes(w, -1, -2) @ w - np.eye(w.shape[-1])).max()
