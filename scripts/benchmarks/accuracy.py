"""Groups "accuracy" and "law": errors that are not beside a time."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.linalg

from benchmarks import torch_peers
from benchmarks.inputs import orthogonality_error, orthonormal, relative_error
from orthojax.maps.exponential import expm
from orthojax.transforms.landing import pogo

NORMS = (0.5, 1, 2, 2.8, 3.5, 5, 7, 7.8, 10, 15.6, 20, 31, 45, 64)
STEPS = (0.05, 0.1, 0.2)


def skew(kind: str, n: int) -> np.ndarray:
    """A random skew-symmetric matrix of spectral norm 1: "gaussian", or "torus", 2 x 2 blocks."""
    rng = np.random.default_rng(0)
    if kind == "gaussian":
        a = rng.standard_normal((n, n))
        a = a - a.T
    else:
        angles = rng.uniform(-1, 1, n // 2)
        a = scipy.linalg.block_diag(*([[0, -angle], [angle, 0]] for angle in angles))
    return a / np.linalg.norm(a, 2)


def exponentials(n: int, with_torch: bool) -> list[dict[str, Any]]:
    """Rows of the error of exp(A) in float32 for norms of A up to 64, against SciPy in float64.

    `over_bound` is the error over 1e-6 (1 + |A|_2 / 4).
    """
    functions = {
        ("orthojax", "expm"): jax.jit(expm),
        ("jax", "scipy.linalg.expm"): jax.jit(jax.scipy.linalg.expm),
    }
    if with_torch:
        functions["torch", "matrix_exp"] = torch_peers.matrix_exp
    rows = []
    for kind in ("gaussian", "torus"):
        for norm in NORMS:
            a = (norm * skew(kind, n)).astype(np.float32)
            exact = scipy.linalg.expm(a.astype(np.float64))
            for (implementation, variant), f in functions.items():
                w = np.asarray(f(jnp.asarray(a) if implementation != "torch" else a))
                error = relative_error(w, exact)
                rows.append(
                    {
                        "group": "accuracy",
                        "method": f"exponential, {kind}",
                        "variant": variant,
                        "implementation": implementation,
                        "shape": (n, n),
                        "dtype": "float32",
                        "norm": norm,
                        "relative_error": error,
                        "over_bound": error / (1e-6 * (1 + norm / 4)),
                        "orthogonality_error": orthogonality_error(w),
                    }
                )
    return rows


def laws() -> list[dict[str, Any]]:
    """Rows of |W'W - I|_2 after one step of POGO with a tangent S of spectral norm s, in float64,
    over 3/4 s^4 (cubic) and 5/8 s^6 (quintic)."""
    shape, rows = (64, 32), []
    w = orthonormal(shape)
    a = skew("gaussian", shape[0])
    for order, factor, power in (("cubic", 3 / 4, 4), ("quintic", 5 / 8, 6)):
        for s in STEPS:
            step = a @ w
            step *= s / np.linalg.norm(step, 2)
            with jax.enable_x64(True):
                tx = pogo(order, metric="euclidean")
                move = jax.jit(lambda u, w, tx=tx: optax.apply_updates(w, tx.update(u, (), w)[0]))
                new = np.asarray(move(jnp.asarray(step), jnp.asarray(w)))
            error = np.linalg.norm(new.T @ new - np.eye(shape[1]), 2)
            rows.append(
                {
                    "group": "law",
                    "method": "pogo",
                    "variant": order,
                    "implementation": "orthojax",
                    "shape": shape,
                    "dtype": "float64",
                    "step": s,
                    "one_step_error": float(error),
                    "over_law": float(error / (factor * s**power)),
                }
            )
    return rows
