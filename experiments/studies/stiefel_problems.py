"""Problems on the Stiefel manifold whose optimum is known: a loss over W [n, p] with W'W = I.

pca             -tr(W'A W) / 2, A = Q D Q', D = 10 logspace(0, -log10(`study.condition`)), Q random
                orthogonal: the p leading eigenvectors, one after the other.
pca_published   the same with A = sym(Q D Q), as in the published script (Javaloy, Vergari 2026,
                arXiv:2602.14656, examples/online_pca.py; before, RSDM): the eigenvalues of this A
                are of both signs and not those of D.
procrustes      |W A - B|_F^2 / (2 p), A [p, p] and B [n, p] normal. |W A| is constant, so that W is
                the orthogonal factor of B A'. For square W in the component of the orthogonal group
                where that is.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Problem(NamedTuple):
    """A loss over W [n, p] with W'W = I. Functions take arrays of NumPy, JAX or PyTorch."""

    constants: tuple[np.ndarray, ...]  # float64
    start: np.ndarray  # [n, p], float64
    optimum: float
    loss: Callable[[tuple, Any], Any]  # (constants, W) -> []
    gradient: Callable[[tuple, Any], Any]  # (constants, W) -> [n, p]


def _haar(rng, n, p):
    q, r = np.linalg.qr(rng.standard_normal((n, p)))
    return q * np.sign(np.diagonal(r))


def _pca(rng, n, p, condition, published=False):
    q = _haar(rng, n, n)
    d = 10 * np.logspace(0, -np.log10(condition), n)
    a = (q * d) @ (q if published else q.T)
    a = (a + a.T) / 2
    leading = np.sort(np.linalg.eigvalsh(a) if published else d)[-p:]
    return Problem(
        constants=(a,),
        start=_haar(rng, n, p),
        optimum=-leading.sum() / 2,
        loss=lambda constants, w: -(w * (constants[0] @ w)).sum() / 2,
        gradient=lambda constants, w: -(constants[0] @ w),
    )


def _procrustes(rng, n, p, condition):
    del condition
    a, b = rng.standard_normal((p, p)), rng.standard_normal((n, p))
    start = _haar(rng, n, p)
    u, s, vt = np.linalg.svd(b @ a.T, full_matrices=False)
    if n == p and np.linalg.det(u @ vt) * np.linalg.det(start) < 0:
        start[:, 0] *= -1
    return Problem(
        constants=(a, b),
        start=start,
        optimum=((a**2).sum() + (b**2).sum() - 2 * s.sum()) / (2 * p),
        loss=lambda constants, w: ((w @ constants[0] - constants[1]) ** 2).sum() / (2 * p),
        gradient=lambda constants, w: (w @ constants[0] - constants[1]) @ constants[0].T / p,
    )


# {name: (random numbers, n, p, condition number) -> Problem}
PROBLEMS = {
    "pca": _pca,
    "pca_published": functools.partial(_pca, published=True),
    "procrustes": _procrustes,
}


@functools.lru_cache(maxsize=1)  # All arms of one seed share it.
def make_problem(name, rows, columns, condition, seed) -> Problem:
    """The problem `name` of `PROBLEMS` for W [rows, columns]."""
    return PROBLEMS[name](np.random.default_rng(seed), rows, columns, condition)
