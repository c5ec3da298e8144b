"""Initial weights of deep two-layer ReLU blocks whose Jacobian keeps a subspace.

Rows are samples: a block of type A maps x to relu(x B + b) A + c, one of type B to x plus that.
Persistent subspace orthogonality (Massucco, Murari, Schoenlieb 2025, arXiv:2508.02882; the
formulas are derived here, the match to those of the paper is not confirmed): for an orthonormal
basis V [n, m] of a subspace, the Jacobian J = dy/dx [n, n] satisfies J V = V R with an orthogonal R
[m, m], at every depth and for every input.

What it gives: the gradient at the input, J'g for g at the output, has V'J'g = (J V)'g = R'V'g, so

  |gradient at the input| >= |V' gradient at the output|   at any depth,

and |J|_2 <= 1 bounds the former from above by |gradient at the output|. If |J|_2 <= 1, or J is
block-diagonal in V and its complement, also J'V = V R': what the gradient has in the subspace stays
there, and nothing of it grows. Proof from |J|_2 <= 1: for a unit vector u = J v, v in the subspace,
1 >= |J'u| >= <J'u, v> = |u|^2 = 1, so J'u = v.

All functions are pure, of static sizes, and can be mapped over the key. Only the weights begin in
this form; nothing holds them there.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from orthojax.initializers import haar
from orthojax.linalg import matmul


class Persistent(NamedTuple):
    """Weights of `depth` blocks, L, of `width` n with h hidden units, and the subspace they keep.

    Attributes:
      inner: B [L, n, h].
      inner_bias: b [L, h].
      outer: A [L, h, n].
      outer_bias: c [L, n].
      subspace: V [n, m], m = 0 for the baselines, which keep none; None where it depends on the
        input.
    """

    inner: jax.Array
    inner_bias: jax.Array
    outer: jax.Array
    outer_bias: jax.Array
    subspace: jax.Array | None


def propagate(blocks: Persistent, x: jax.Array, *, residual: bool) -> jax.Array:
    """The output [..., n] of all blocks at `x` [..., n], of type B if `residual`, else A."""

    def step(x, block):
        inner, inner_bias, outer, outer_bias = block
        y = matmul(jax.nn.relu(matmul(x, inner) + inner_bias), outer) + outer_bias
        return (x + y if residual else y), None

    return jax.lax.scan(step, x, blocks[:4])[0]


def shared(
    key: jax.Array,
    depth: int,
    width: int,
    k: int | None = None,
    radius: float = 4.0,
    dtype=jnp.float32,
    *,
    residual: bool = False,
) -> Persistent:
    """Type A, x <- relu(x Q) Q', or B, x <- x - relu(x Q) Q', with one Haar matrix Q [n, n] for all
    blocks.

    Q diag(xQ > 0) Q' and, of type B, Q diag(xQ <= 0) Q' are projections, and the second block finds
    its input there: J is the same at every depth, its singular values all 0 or 1, |J|_2 = 1. The
    subspace kept is that of the columns of Q active for this input, of type B of the others, about
    half of them: `subspace` is None. Of type B the first block leaves nothing for the others to
    take away: their units are at 0, active by rounding only, and the outer kernels have gradients
    of that size at first.

    With `k` a bias b decides, `radius` on the first n - k columns and 0 on the rest:
    x <- (relu(x Q + b) - b) Q', of type B x - relu(x Q - b) Q'. Where (x Q)_i >= -radius, of type B
    <= radius, on those columns, as for all |x| <= radius, they pass unchanged and span `subspace`;
    elsewhere J is still a projection.

    Round-off does not average out over blocks of one matrix: in float32, where Q'Q is I to 2e-7,
    singular values of type A are 1 to about 1e-4 at depth 200, of type B, where nearly all of it
    passes beside the kernels, to 1e-6.

    Args:
      key: of `jax.random`.
      depth: number of blocks.
      width: n.
      k: dimension left free, 0 to n; None for no bias.
      radius: at the scale of the inputs' entries, for a standard one about 4.
      dtype: of all arrays.
      residual: type B.

    >>> import jax
    >>> shared(jax.random.key(0), 50, 8, k=3).subspace.shape
    (8, 5)
    """
    _check(depth, width)
    q = haar(key, (width, width), dtype)
    bias, subspace = jnp.zeros(width, dtype), None
    if k is not None:
        _check_k(k, width, 0)
        bias, subspace = bias.at[: width - k].set(radius), q[:, : width - k]
    if residual:
        weights = (q, -bias, -q.T, jnp.zeros(width, dtype))
    else:
        weights = (q, bias, q.T, -matmul(q, bias))
    return Persistent(*_repeat(depth, *weights), subspace)


def projection(
    key: jax.Array,
    depth: int,
    width: int,
    k: int,
    dtype=jnp.float32,
    *,
    residual: bool = True,
) -> Persistent:
    """Type B, x <- x - relu(x U_l) U_l', or A, x <- x V V' + relu(x U_l) U_l', where Q = [V, W]
    [n, n] is Haar and one for all blocks, W of k columns, and U_l = W R_l, R_l [k, k] Haar, a new
    one a block.

    J is the identity on `subspace`, V, of n - k dimensions, and |J|_2 <= 1: a block's own is a
    projection. On W it vanishes with depth; at k = n nothing else is left.

    Type B has h = k hidden units. Type A takes two for each dimension of V, z = relu(z) - relu(-z):
    B_l = [V, -V, U_l] and A_l = [V, -V, U_l]' with h = 2 (n - k) + k = 2n - k, more than n for all
    k < n. Its V'JV is off by 1e-4 at depth 200 in float32, for the reason given in `shared`.

    Raises:
      ValueError: `k` is not in 1 to n.
    """
    _check(depth, width)
    _check_k(k, width, 1)
    key, inner_key = jax.random.split(key)
    q = haar(key, (width, width), dtype)
    w, v = q[:, :k], q[:, k:]
    inner = matmul(w, haar(inner_key, (depth, k, k), dtype))
    if residual:
        return _without_bias(inner, -inner.mT, v)
    (kept,) = _repeat(depth, v)
    inner = jnp.concatenate([kept, -kept, inner], axis=-1)
    return _without_bias(inner, inner.mT, v)


def block(
    key: jax.Array,
    depth: int,
    width: int,
    k: int,
    dtype=jnp.float32,
    *,
    residual: bool = False,
) -> Persistent:
    """Type A, x <- x V O_l V' + relu(x W K_l) M_l W', or B, x <- x + relu(x W K_l) M_l W', where
    Q = [V, W] [n, n] is Haar and one for all blocks, V of m = n - k columns, and O_l [m, m] is
    Haar, a new one a block.

    J is block-diagonal, V O V' + W R W', of type B with O = I, so that gradients are kept on
    `subspace`, V; but it is no contraction: a block's |R|_2 > 1. K_l [k, r] is Gaussian with
    variance 2/k (He et al. 2015, arXiv:1502.01852), M_l [r, k] with one by which R neither dies out
    nor explodes in the mean square:

    - Type A: 1/r. Over many blocks R behaves as a `kaiming` network of width k. As
      z = relu(z) - relu(-z) takes two hidden units a dimension of V, B_l = [V O_l, -V O_l, W K_l]
      and A_l = [V, -V, W M_l']', h = n in all leave r = n - 2m = 2k - n.
    - Type B: 1/(r L), r = h = k. With 1/r a branch has the mean square of its input x W, without
      correlation to it: each block doubles it, and so the squares of R, L of them make 2^L. A
      factor L^(-1/2) of M_l leaves (1 + 1/L)^L < e.

    Raises:
      ValueError: `k` is not in n/2 to n, with which there are fewer than two hidden units a
        dimension of V, or of type B not in 1 to n.
    """
    _check(depth, width)
    m, rest = width - k, 2 * k - width
    if residual:
        _check_k(k, width, 1)
        rest = k
    elif rest < 0 or k > width:
        raise ValueError(
            f"`k` is between width / 2 and width, as each of the width - k dimensions kept takes "
            f"two of width={width} hidden units, got k={k}."
        )
    keys = jax.random.split(key, 4)
    q = haar(keys[0], (width, width), dtype)
    v, w = q[:, :m], q[:, m:]
    free_in = jax.random.normal(keys[2], (depth, k, rest), dtype) * (2 / k) ** 0.5
    free_out = jax.random.normal(keys[3], (depth, rest, k), dtype) / max(rest, 1) ** 0.5
    inner, outer = matmul(w, free_in), matmul(free_out, w.T)
    if residual:
        return _without_bias(inner, outer / depth**0.5, v)
    turned = matmul(v, haar(keys[1], (depth, m, m), dtype))
    (back,) = _repeat(depth, v.T)
    inner = jnp.concatenate([turned, -turned, inner], axis=-1)
    outer = jnp.concatenate([back, -back, outer], axis=-2)
    return _without_bias(inner, outer, v)


def looks_linear(key: jax.Array, depth: int, width: int, dtype=jnp.float32) -> Persistent:
    """Type A, x <- x V O_l V': `block` with k = n/2, where no hidden units are left for the rest.

    A linear map at first, as the mirrored weights of Balduzzi et al. 2017, arXiv:1702.08591, of
    rank n/2 since each of its directions takes two of n units.

    Raises:
      ValueError: an odd width.
    """
    if width % 2:
        raise ValueError(f"`width` must be even, half of it is kept, got {width}.")
    return block(key, depth, width, width // 2, dtype)


def kaiming(
    key: jax.Array, depth: int, width: int, hidden: int | None = None, dtype=jnp.float32
) -> Persistent:
    """A baseline that keeps no subspace: B_l Gaussian with variance 2/n, A_l with 1/h.

    He et al. 2015, arXiv:1502.01852: the 2 makes up for one ReLU, of which a block has one, so the
    mean square is kept in type A and doubled by each block in type B. h is n, or `hidden`.
    """
    hidden = width if hidden is None else hidden
    _check(depth, width, hidden)
    inner_key, outer_key = jax.random.split(key)
    inner = jax.random.normal(inner_key, (depth, width, hidden), dtype) * (2 / width) ** 0.5
    outer = jax.random.normal(outer_key, (depth, hidden, width), dtype) / hidden**0.5
    return _without_bias(inner, outer, jnp.zeros((width, 0), dtype))


def independent(
    key: jax.Array, depth: int, width: int, scale: float = 1.0, dtype=jnp.float32
) -> Persistent:
    """A baseline that keeps no subspace: x <- scale relu(x Q_l) Q_l', a Haar matrix Q_l per block.

    All that `shared` has but the sharing; `scale` sqrt 2, put into B_l, keeps the mean square.
    """
    _check(depth, width)
    q = haar(key, (depth, width, width), dtype)
    return _without_bias(scale * q, q.mT, jnp.zeros((width, 0), dtype))


def _check(depth, width, hidden=1):
    for name, size in (("depth", depth), ("width", width), ("hidden", hidden)):
        if size < 1:
            raise ValueError(f"`{name}` must be at least 1, got {size}.")


def _check_k(k, width, least):
    if not least <= k <= width:
        raise ValueError(f"`k` is between {least} and width={width}, got {k}.")


def _repeat(depth, *arrays):
    return (jnp.broadcast_to(x, (depth, *x.shape)) for x in arrays)


def _without_bias(inner, outer, subspace):
    depth, width, hidden = inner.shape
    inner_bias = jnp.zeros((depth, hidden), inner.dtype)
    return Persistent(inner, inner_bias, outer, jnp.zeros((depth, width), inner.dtype), subspace)
