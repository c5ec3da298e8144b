"""Low rank: W = U S V' with frozen bases U, V and a full core S, as OIALR trains it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from orthojax.linalg import at_least_float32, eye_like, matmul
from orthojax.parameterization import Parameterization


class Factors(NamedTuple):
    """Base of `low_rank`: columns from `rank` on are zero, and so stays their part of the core."""

    u: jax.Array  # [*batch, n, p]
    v: jax.Array  # [*batch, p, p]
    rank: jax.Array  # [*batch] int32


def low_rank(cutoff: float = 0.0) -> Parameterization:
    """W = U S V' with orthonormal U [n, p], V [p, p] as constants and the core S [p, p] trained.

    `init` is the SVD of W, cut off: singular values below `cutoff` times the largest go, and never
    come back. Applied again (`rebase_every`), it turns the bases to the singular vectors of the
    current W and lowers the rank: the best approximation of W of that rank (Eckart and Young
    1936). With a delay at full rank before it this is OIALR (Coquelin et al. 2024,
    arXiv:2401.08505). Moments of the inner optimizer are rotated with the bases.

    Shapes do not change with the rank: one compilation, no memory saved. Cost of `forward`: 2
    products; of its pull-back, U'G V, 2; of `init` an SVD. With `rebase_every` the SVD is part of
    the step's program, under a `lax.cond`; under `vmap` it runs in every step.

    Args:
      cutoff: relative to the largest singular value, in [0, 1).

    >>> import jax.numpy as jnp, orthojax
    >>> p = orthojax.low_rank(cutoff=0.1)
    >>> base, core = p.init(jnp.diag(jnp.array([4., 2., 0.1])))
    >>> int(base.rank)
    2
    """
    if isinstance(cutoff, int | float) and not 0 <= cutoff < 1:
        raise ValueError(
            f"`cutoff` is relative to the largest singular value and lies in [0, 1), got {cutoff}."
        )

    def init(w):
        u, s, vt = jnp.linalg.svd(at_least_float32(w), full_matrices=False)
        # Not `>`: a zero kernel would get rank 0 and never learn.
        keep = s >= cutoff * s[..., :1]
        columns = keep[..., None, :]
        core = jnp.where(columns, s[..., None, :] * eye_like(vt), 0)
        rank = jnp.sum(keep, axis=-1, dtype=jnp.int32)
        u, v = (jnp.where(columns, basis, 0) for basis in (u, vt.mT))
        return Factors(u, v, rank), core

    def forward(base, core):
        return matmul(matmul(base.u, core), base.v.mT)

    def transport(old, new, m, squared):
        left, right = matmul(new.u.mT, old.u), matmul(old.v.mT, new.v)
        if squared:  # Of independent entries; never negative.
            left, right = left**2, right**2
        return matmul(matmul(left, m), right)

    return Parameterization(init, forward, transport=transport)
