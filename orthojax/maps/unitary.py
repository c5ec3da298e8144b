"""Unitary matrices P + iQ as real ones [P; Q], and maps on the orthogonal group as maps on them."""

import jax
import jax.numpy as jnp

from orthojax.linalg import at_least_float32
from orthojax.maps.cayley import cayley
from orthojax.maps.exponential import exponential
from orthojax.maps.polar import polar
from orthojax.parameterization import Parameterization

_MAPS = {"cayley": cayley, "exponential": exponential, "polar": polar}


def real_form(kernel: jax.Array) -> jax.Array:
    """[[X, Y], [-Y, X]] [..., 2n, 2n] of a kernel [X, Y] [..., n, 2n] that stands for U = X + iY.

    Rows (a, b) that stand for a + ib are multiplied by it as by U: (a + ib) U, in as many real
    multiplications as the complex product has. Orthogonal where U is unitary.

    >>> import jax.numpy as jnp
    >>> jnp.array([[3., 1.]]) @ real_form(jnp.array([[0., 1.]]))  # (3 + i) i
    Array([[-1.,  3.]], dtype=float32)
    """
    n = kernel.shape[-2]
    if kernel.shape[-1] != 2 * n:
        raise ValueError(
            "A unitary kernel is [n, 2n], its real part beside its imaginary part; got "
            f"{tuple(kernel.shape)}."
        )
    turned = jnp.concatenate([-kernel[..., n:], kernel[..., :n]], axis=-1)
    return jnp.concatenate([kernel, turned], axis=-2)


def unitary(map: str = "cayley") -> Parameterization:
    """A map on orthogonal matrices as one on unitary matrices: kernels [n, 2n] that hold X beside Y
    of U = X + iY.

    Such a kernel is seen as the tall matrix W = [P; Q] [2n, n], P + iQ = U'. What the map does to
    its real form [[P, -Q], [Q, P]], orthogonal 2n x 2n, is again such a form, since matrices of
    this form are closed under sums, products, inverses and transposition: the first n columns say
    all, of values and of gradients. "cayley" is thus (I - S/2)^{-1} (I + S/2) U' for skew-Hermitian
    S, the step of Wisdom et al. 2016, arXiv:1611.00035, and "exponential" with `rebase_every=K` a
    dynamic trivialization on U(n) (Lezcano-Casado 2019, arXiv:1909.09501).

    Cost: that of the map at 2n x 2n, twice the multiplications of the same in complex numbers. No
    complex arrays: optimizers, checkpoints and accelerators need not know.

    Args:
      map: "cayley", "exponential" or "polar".

    Raises:
      ValueError: another map, or, once it is used, kernels that are not [n, 2n].

    >>> import jax, jax.numpy as jnp, orthojax
    >>> p = orthojax.unitary()
    >>> base, theta = p.init(jnp.array([[1.0], [0.0]]))  # U = 1
    >>> p.forward(base, theta + jnp.array([[0.0], [2.0]]))  # U' = i, by 2 atan(2/2)
    Array([[0.],
           [1.]], dtype=float32)
    """
    if map not in _MAPS:
        raise ValueError(
            f"`map` is one of {', '.join(_MAPS)}, which keep the real form of a unitary matrix; "
            f"got {map!r}."
        )
    p = _MAPS[map]()

    def whole(w):
        if w.shape[-2] != 2 * w.shape[-1]:
            raise ValueError(
                "A unitary kernel is [n, 2n], its real part beside its imaginary part; its tall "
                f"view [2n, n] cannot be {tuple(w.shape[-2:])}."
            )
        return real_form(w.mT).mT

    def part(w):
        return w[..., : w.shape[-1] // 2]

    def init(w):
        base = part(p.init(whole(at_least_float32(w)))[0])
        return base, jnp.zeros_like(base)

    def forward(base, theta):
        return part(p.forward(whole(base), whole(theta)))

    def pull_back(base, theta, w, g):
        # whole(g) / 2 is the gradient within the form, which has each entry of theta twice: the
        # factors cancel.
        return part(p.pull_back(whole(base), whole(theta), whole(w), whole(g)))

    # Not `is_retraction`: tangent vectors of the Stiefel manifold are more than those of U(n).
    return Parameterization(init, forward, pull_back if p.pull_back else None)
