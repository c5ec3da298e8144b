"""Householder reflections: W = H(v_1) ... H(v_k) B in compact WY form."""

import jax
import jax.numpy as jnp

from orthojax.decompositions import orthonormalize
from orthojax.inverses import right_divide, solve_upper, triangular_inverse
from orthojax.linalg import at_least_float32, eye_like, matmul
from orthojax.parameterization import Parameterization


def unscaled(v):
    """`v` with largest entries of 1 in each column: reflections do not depend on the scale, squares
    may overflow."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(v), axis=-2, keepdims=True))
    return v / jnp.where(largest > 0, largest, 1)


def _wy(gram):
    """S = striu(V'V) + diag(V'V) / 2 of H(v_1) ... H(v_k) = I - V S^{-1} V', for V'V."""
    # Not 0 on the diagonal for v = 0, whose reflection is the identity.
    diagonal = jnp.diagonal(gram, axis1=-2, axis2=-1)[..., None]
    diagonal = jnp.where(diagonal > 0, diagonal, 1) / 2
    return jnp.triu(gram, 1) + diagonal * eye_like(gram)


@jax.custom_jvp
def _gram(v):
    return matmul(v.mT, v)


@_gram.defjvp
def _(primals, tangents):
    (v,), (dv,) = primals, tangents
    # Once, where the product rule has it twice: the transpose saves a product too.
    half = matmul(v.mT, dv)
    return _gram(v), half + half.mT


def reflect(v: jax.Array, x: jax.Array | None = None) -> jax.Array:
    """H(v_1) ... H(v_k) X for columns v_i of `v` [..., n, k], H(v) = I - 2 v v' / v'v, H(0) = I.

    `x` [..., n, p], by default the first k columns of the identity, which saves a product. In
    compact WY form, I - V S^{-1} V' with S = striu(V'V) + diag(V'V) / 2 (Likhosherstov et al. 2021,
    arXiv:2004.08675), since `jax.lax.linalg.householder_product` has no derivative: 2
    products n k p, one k^2 p or, for few reflections, k^2 n, and a triangular inverse by products,
    k^3 / 3.

    >>> import jax.numpy as jnp
    >>> reflect(jnp.array([[1.], [1.]]))  # e_1 in the mirror normal to (1, 1).
    Array([[ 0.],
           [-1.]], dtype=float32)
    """
    v = unscaled(v)
    s = _wy(_gram(v))
    if x is None:
        k = v.shape[-1]
        eye = jnp.broadcast_to(jnp.eye(*v.shape[-2:], dtype=v.dtype), v.shape)
        return eye - matmul(v, solve_upper(s, v[..., :k, :].mT))
    if 2 * v.shape[-1] <= min(x.shape[-2:]):
        # V S^{-1} first: a solve beside X has XLA on CPU store X by columns, which for 8
        # reflections of 1024 takes ten times as long as all products.
        return x - matmul(right_divide(v, s, triangular_inverse), matmul(v.mT, x))
    return x - matmul(v, solve_upper(s, matmul(v.mT, x)))


def householder(reflections: int | None = None) -> Parameterization:
    """A product of k Householder reflections: theta = V [n, k] holds their normals.

        W = H(v_1) ... H(v_k) B,    H(v) = I - 2 v v' / v'v,    1 <= k <= p.

    With k = p (`reflections=None`) base = D [p], column signs +-1, and W = H(v_1) ... H(v_p) I_{n x
    p} D reaches all of the Stiefel manifold, for square W the component in which it starts. With
    fewer, base = B [n, p] is orthonormal, chosen so that a fixed random V gives the W at hand, and
    W moves in a family of k (n - 1) dimensions around it.

    The signs are constants in the base, never in a trained array: PyTorch keeps them on the
    diagonal of its parameter, where one step of weight decay erases the weights. Decay of V changes
    nothing, since H(v) does not depend on the scale of v; with elementwise optimizers the scale of
    V sets the effective learning rate.

    Cost of `forward`: 2 products n p^2, one p^3 and a triangular inverse; with gradient 5 and 3.
    Holds one copy of W. `init` is LAPACK's QR: rebase seldom or never, it only rescales V.

    >>> import jax, jax.numpy as jnp, orthojax
    >>> p = orthojax.householder()
    >>> w = jnp.eye(4)[:, :2]
    >>> bool(jnp.allclose(p.forward(*p.init(w)), w))
    True
    """
    if reflections is not None and reflections < 1:
        raise ValueError(f"`reflections` is their number, at least 1, got {reflections}.")

    def init(w):
        w = at_least_float32(w)
        n, p = w.shape[-2:]
        if reflections is not None and reflections > p:
            raise ValueError(
                f"`reflections` is at most p = {p} for {n} x {p} matrices, got {reflections}."
            )
        if reflections is None or reflections == p:
            # LAPACK packs R on and above the diagonal, the reflectors below.
            packed = jnp.linalg.qr(w, mode="raw")[0].mT
            v = jnp.tril(packed, -1) + jnp.broadcast_to(jnp.eye(n, p, dtype=w.dtype), w.shape)
            # Not from the diagonal of R: the last reflector of a square matrix is the identity
            # there, not H(e_n).
            return jnp.where(jnp.sum(reflect(v) * w, axis=-2) < 0, -1, 1).astype(w.dtype), v
        v = jax.random.normal(jax.random.key(0), (n, reflections), w.dtype)
        v = jnp.broadcast_to(v, (*w.shape[:-2], n, reflections))
        return reflect(v[..., ::-1], orthonormalize(w)), v

    def forward(base, theta):
        if theta.shape[-1] == base.shape[-1] and base.ndim == theta.ndim - 1:
            return reflect(theta) * base[..., None, :]
        return reflect(theta, base)

    return Parameterization(init, forward)
