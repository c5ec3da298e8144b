"""Families of adapters: W = forward(W0, constants, theta) of one kernel.

The orthogonal ones multiply the side of the inputs, R W0 for a kernel W0 [inputs, outputs]: all
neurons, the columns of W0, turn together, so that their lengths, angles and hyperspherical energy
stay (Qiu et al. 2023, arXiv:2306.07280, section 3).
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from orthojax.linalg import matmul
from orthojax.maps.cayley import cayley_map
from orthojax.maps.householder import reflect


class Adapter(NamedTuple):
    """A pair of pure functions on kernels as matrices [*batch, inputs, outputs] of float32 or
    float64.

    Two functions are enough to write one's own. Adapters made with the same arguments are the same
    object, so that programs are compiled once.

    Attributes:
      init: (key, W0) -> (constants, theta), pytrees that lead with the batch axes. Raises
        ValueError for sizes that it cannot adapt.
      forward: (W0, constants, theta) -> W, differentiable; W0 itself for theta from `init`.
    """

    init: Callable[[jax.Array, jax.Array], tuple[chex.ArrayTree, chex.ArrayTree]]
    forward: Callable[[jax.Array, chex.ArrayTree, chex.ArrayTree], jax.Array]


def _check_whole(name, value, least=1):
    if not isinstance(value, int) or value < least:
        raise ValueError(f"`{name}` is a whole number, at least {least}, got {value!r}.")


# Orthogonal adapters.


def _rotations(entries, block):
    """Rotations [..., b, b] of the entries [..., b (b - 1) / 2] above the diagonal of A."""
    rows, columns = np.triu_indices(block, 1)
    upper = jnp.zeros((*entries.shape[:-1], block, block), entries.dtype)
    upper = upper.at[..., rows, columns].set(entries, indices_are_sorted=True, unique_indices=True)
    return cayley_map(upper - upper.mT)


def _rotate(w, blocks, stride):
    """Blocks Q [*batch, d/b, b, b] times W [*batch, d, n], each on two runs of b/2 rows that lie
    `stride` such runs apart; neighbours for stride 1."""
    *batch, d, n = w.shape
    b = blocks.shape[-1]
    if stride == 1:
        return matmul(blocks, w.reshape(*batch, d // b, b, n)).reshape(w.shape)
    runs = (*batch, d // (b * stride), 2, stride, b // 2, n)
    pairs = jnp.swapaxes(w.reshape(runs), -4, -3)
    turned = matmul(blocks, pairs.reshape(*batch, d // b, b, n))
    return jnp.swapaxes(turned.reshape(pairs.shape), -4, -3).reshape(w.shape)


@functools.cache
def boft(block: int, factors: int | None = None) -> Adapter:
    """R W0, R = B_m ... B_1: a butterfly of m `factors`, each of rotations of b x b, b = `block`.

    B_i rotates pairs of runs of b/2 inputs that lie 2^{i-1} runs apart: with m factors blocks of
    2^{m-1} b inputs are mixed, all d of them for m = 1 + log2(d/b) (Liu et al. 2024,
    arXiv:2311.06243, section 4). m = 1 is `oft`; b = 2 is a butterfly of Givens rotations, as of
    the fast Fourier transform. Rotations are exact Cayley transforms, not truncated series, so R is
    orthogonal to rounding at any theta.

    Trained: m d (b - 1) / 2. Starts at theta = 0, W = W0. `forward`: a b x b inverse for each of
    the m d / b blocks and m products of d b n.

    Args:
      block: even, or odd with one factor.
      factors: their number; None for those that mix all inputs, where d/b is a power of two.

    >>> import jax, jax.numpy as jnp
    >>> adapter = boft(block=2, factors=2)
    >>> _, theta = adapter.init(jax.random.key(0), jnp.ones((8, 5)))
    >>> theta.shape
    (2, 4, 1)
    """
    _check_whole("block", block, 2)
    if factors is not None:
        _check_whole("factors", factors)

    def number(d):
        if d % block:
            fit = [b for b in range(2, d + 1) if d % b == 0]
            raise ValueError(
                f"`block` divides the {d} inputs, got {block}; the nearest that does is "
                f"{min(fit, key=lambda b: abs(b - block))}."
                if fit
                else f"a single input cannot be rotated, got `block`={block}."
            )
        m = factors or (d // block).bit_length()
        if (m > 1 and block % 2) or d % (block << (m - 1)):
            m_most = ((d // block) & -(d // block)).bit_length()
            raise ValueError(
                f"{m} `factors` pair runs of block / 2 up to {1 << (m - 1)} runs apart, got "
                f"`block`={block} for {d} inputs, which allow "
                f"{1 if block % 2 else m_most} at most: `block` is even, and block * "
                "2^(factors - 1) divides the inputs."
            )
        return m

    def init(key, w):
        del key
        *batch, d, _ = w.shape
        entries = block * (block - 1) // 2
        return (), jnp.zeros((*batch, number(d), d // block, entries), w.dtype)

    def forward(w, constants, theta):
        del constants
        blocks = _rotations(theta, block)
        for i in range(theta.shape[-3]):
            w = _rotate(w, blocks[..., i, :, :, :], 1 << i)
        return w

    return Adapter(init, forward)


@functools.cache
def oft(block: int) -> Adapter:
    """R W0 with block-diagonal R: neighbouring inputs rotate in blocks of b = `block` (Qiu et al.
    2023, arXiv:2306.07280).

    `boft` of one factor. Each block is (I - A/2)^{-1} (I + A/2) of a skew-symmetric A, exactly; the
    truncated Neumann series that peft uses leaves R'R - I of .37 (root mean square) at |A| = 1 in
    the paper's scale, (I - A)^{-1} (I + A). Of theta here, that is |A| = 2.

    Trained: d (b - 1) / 2 of d inputs. Starts at theta = 0, W = W0. `forward`: d/b inverses of
    b x b and a product of d b n.

    Args:
      block: divides the number of inputs, rows of the kernel as a matrix.
    """
    return boft(block, 1)


@functools.cache
def hra(reflections: int) -> Adapter:
    """R W0, R = H(v_1) ... H(v_r), H(v) = I - 2 v v' / v'v: Householder reflection adaptation (Yuan
    et al. 2024, arXiv:2405.17484).

    In compact WY form, all reflections at once, where peft multiplies d x d matrices one after
    another. R - I has rank r at most: both orthogonal and low rank.

    Trained: r d of d inputs. Starts at random pairs of equal normals, whose reflections cancel, so
    W = W0 to rounding. `forward`: 2 products d r n and an r x r triangular inverse.

    Args:
      reflections: r, an even number: a product of an odd one has determinant -1 and cannot start
        at W0.
    """
    _check_whole("reflections", reflections)
    if reflections % 2:
        raise ValueError(
            "`reflections` is even: they start in pairs that cancel, and an odd number has "
            f"determinant -1 and never gives the frozen kernel; got {reflections}."
        )

    def init(key, w):
        *batch, d, _ = w.shape
        if reflections > d:
            raise ValueError(f"`reflections` is at most the {d} inputs, got {reflections}.")
        half = jax.random.normal(key, (*batch, d, reflections // 2), w.dtype) / d**0.5
        return (), jnp.repeat(half, 2, axis=-1)

    def forward(w, constants, theta):
        del constants
        return reflect(theta, w)

    return Adapter(init, forward)


# Adapters of low rank.


def _check_rank(rank, w):
    if rank > min(w.shape[-2:]):
        raise ValueError(
            f"`rank` is at most {min(w.shape[-2:])} for {w.shape[-2]} x {w.shape[-1]} kernels, "
            f"got {rank}."
        )


@functools.cache
def lora(rank: int, scale: float = 1.0) -> Adapter:
    """W0 + scale A B with A [d, r] and B [r, n] trained (Hu et al. 2021, arXiv:2106.09685).

    Trained: r (d + n). Starts at A Gaussian of variance 1/d, B = 0. `forward`: a product d r n.

    Args:
      rank: r.
      scale: alpha / r of the paper.
    """
    _check_whole("rank", rank)

    def init(key, w):
        _check_rank(rank, w)
        *batch, d, n = w.shape
        a = jax.random.normal(key, (*batch, d, rank), w.dtype) / d**0.5
        return (), {"a": a, "b": jnp.zeros((*batch, rank, n), w.dtype)}

    def forward(w, constants, theta):
        del constants
        return w + scale * matmul(theta["a"], theta["b"])

    return Adapter(init, forward)


@functools.cache
def lora_xs(rank: int) -> Adapter:
    """W0 + U_r S_r C V_r' with the r leading singular triples of W0 as constants and C [r, r]
    trained (Balazy et al. 2024, arXiv:2405.17604).

    The core of OIALR with bases that do not turn: W = U S (I + C) V' on the leading r directions,
    while the rest of W0 stays as it is.

    Trained: r^2, whatever the kernel. Starts at C = 0, W = W0. `init` is an SVD; `forward`:
    products of d r^2 and d r n.

    Args:
      rank: r.
    """
    _check_whole("rank", rank)

    def init(key, w):
        del key
        _check_rank(rank, w)
        u, s, vt = jnp.linalg.svd(w, full_matrices=False)
        core = jnp.zeros((*w.shape[:-2], rank, rank), w.dtype)
        return (u[..., :rank] * s[..., None, :rank], vt[..., :rank, :]), core

    def forward(w, constants, theta):
        left, right = constants
        return w + matmul(matmul(left, theta), right)

    return Adapter(init, forward)
