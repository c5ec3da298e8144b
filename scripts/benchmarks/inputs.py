"""Matrices to measure on, and what the maps must give for them, by NumPy and SciPy in float64."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg

NORM = 2.8  # |A|_2 of the skew-symmetric A of exponential and Cayley map: within reach of pi.
ORACLE_ROWS = 1024  # Larger ones would take the oracles minutes.


def orthogonality_error(w: Any) -> float:
    """The largest |W'W - I|_F / sqrt(p) of a batch, in float64."""
    w = np.asarray(w, np.float64)
    defect = w.swapaxes(-2, -1) @ w - np.eye(w.shape[-1])
    return float(np.max(np.linalg.norm(defect, axis=(-2, -1))) / w.shape[-1] ** 0.5)


def relative_error(w: Any, exact: Any) -> float:
    """The largest |W - exact|_F / |exact|_F of a batch."""
    error = np.asarray(w, np.float64) - exact
    norms = [np.linalg.norm(x, axis=(-2, -1)) for x in (error, np.asarray(exact))]
    return float(np.max(norms[0] / norms[1]))


def orthonormal(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Random orthonormal columns, float64."""
    return np.linalg.qr(np.random.default_rng(seed).standard_normal(shape))[0]


def dense(theta: Any, xp: Any = np) -> Any:
    """The skew-symmetric [*batch, n, n] with first columns `theta` = [K; E], K skew, and zeros in
    the last block."""
    n, p = theta.shape[-2:]
    if n == p:
        return theta
    normal = theta[..., p:, :]
    corner = xp.zeros((*theta.shape[:-2], n - p, n - p), theta.dtype)
    right = xp.concatenate([-normal.swapaxes(-2, -1), corner], axis=-2)
    return xp.concatenate([theta, right], axis=-1)


def _skew_columns(rng, shape):
    theta = rng.standard_normal(shape)
    top = theta[..., : shape[-1], :]
    top[...] = (top - top.swapaxes(-2, -1)) / 2
    return theta


def _spectral_norm(theta):
    """|dense(theta)|_2 within a percent, of the first of a batch, without forming it."""
    theta = theta.reshape(-1, *theta.shape[-2:])[0]
    p = theta.shape[1]
    v = np.random.default_rng(1).standard_normal(theta.shape[0])
    for _ in range(60):
        v = v / np.linalg.norm(v)
        # Twice A, since its eigenvalues are in pairs +-i.
        for _ in range(2):
            u = theta @ v[:p]
            u[:p] -= theta[p:].T @ v[p:]
            v = u
    return np.linalg.norm(v) ** 0.5


def reflections(v: np.ndarray) -> np.ndarray:
    """H(v_1) ... H(v_p) I_{n x p}, one after another."""
    n, p = v.shape[-2:]
    w = np.broadcast_to(np.eye(n, p), v.shape).copy()
    for i in reversed(range(p)):
        x = v[..., i : i + 1]
        w -= x @ ((2 / np.sum(x * x, -2, keepdims=True)) * (x.swapaxes(-2, -1) @ w))
    return w


def _cayley(theta):
    a = dense(theta)
    eye = np.eye(a.shape[-1])
    return np.linalg.solve(eye - a / 2, eye + a / 2)[..., : theta.shape[-1]]


def _qr(x):
    q, r = np.linalg.qr(x)
    return q * np.sign(np.diagonal(r, axis1=-2, axis2=-1))[..., None, :]


def _polar(x):
    u, _, vt = np.linalg.svd(x, full_matrices=False)
    return u @ vt


# {method: theta [*batch, n, p] float64 -> W}. Of qr and polar theta is the matrix itself.
ORACLES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "exponential": lambda theta: scipy.linalg.expm(dense(theta))[..., : theta.shape[-1]],
    "cayley": _cayley,
    "householder": reflections,
    "qr": _qr,
    "polar": _polar,
}


class Problem(NamedTuple):
    """A point, and the derivative that every implementation must find there, float64."""

    theta: np.ndarray  # [*batch, n, p]
    direction: np.ndarray  # [*batch, n, p], tangent: what a change of theta can be
    cotangent: np.ndarray  # [*batch, n, p], dL/dW
    w: np.ndarray | None  # [*batch, n, p], None where it would take too long
    slope: float | None  # dL along `direction`

    def measures(self, w: Any, gradient: Any, direction: Any = None) -> dict[str, float | None]:
        """Errors of a value and of a gradient with respect to parameters that move along
        `direction` when theta does along its own."""
        found = {"orthogonality_error": orthogonality_error(w)}
        if self.w is not None:
            direction = self.direction if direction is None else direction
            slope = np.sum(np.asarray(gradient, np.float64) * direction)
            found["relative_error"] = relative_error(w, self.w)
            found["gradient_error"] = float(abs(slope / self.slope - 1))
        return found


@functools.lru_cache(maxsize=8)
def problem(method: str, shape: tuple[int, ...]) -> Problem:
    """The `Problem` of one of `ORACLES`."""
    rng, (n, p) = np.random.default_rng(0), shape[-2:]
    if method in ("exponential", "cayley"):
        theta, direction = _skew_columns(rng, shape), _skew_columns(rng, shape)
        theta *= NORM / _spectral_norm(theta)
    else:
        theta, direction = (rng.standard_normal(shape) / n**0.5 for _ in range(2))
        if method == "householder":  # As LAPACK has them, for torch.
            theta = np.tril(theta, -1) + np.eye(n, p)
            direction = np.tril(direction, -1)
        else:
            theta = np.eye(n, p) + theta / 4
    # As the implementations get it.
    theta = theta.astype(np.float32).astype(np.float64)
    direction /= np.linalg.norm(direction)
    if n > ORACLE_ROWS:
        cotangent = rng.standard_normal(shape)
        return Problem(theta, direction, cotangent, None, None)
    oracle, h = ORACLES[method], 1e-4
    change = (oracle(theta + h * direction) - oracle(theta - h * direction)) / (2 * h)
    # The cotangent is what the direction changes: their product is not small by chance.
    slope = np.linalg.norm(change)
    cotangent = (change / slope).astype(np.float32).astype(np.float64)
    return Problem(theta, direction, cotangent, oracle(theta), float(np.sum(cotangent * change)))
