"""Orthogonal convolutions with an explicit kernel, made of orthonormal matrices by products.

With P = M M' a projector, the window of two taps (P, I - P) is an orthogonal convolution (Xiao,
Bahri, Sohl-Dickstein, Schoenholz, Pennington 2018, arXiv:1806.05393). BCOP multiplies k - 1 of them
along each axis (Li, Haque, Anil, Lucas, Grosse, Jacobsen 2019, arXiv:1911.00937), AOC adds strides
and groups (Boissin, Mamalet, Fel, Picard, Massena, Serrurier 2025, arXiv:2501.08930). There M is
orthonormalized at each step; here M is a parameter that an optimizer keeps orthonormal.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from orthojax.convolutions import compose, from_groups
from orthojax.linalg import at_least_float32, eye_like, matmul


class BlockShapes(NamedTuple):
    """Shapes of the parameters of a block-orthogonal kernel, stacks of orthonormal matrices.

    Attributes:
      projectors: (2 (window - strides), groups, c, c // 2), c the channels of a group between; the
        first half works along the height, the second along the width.
      matrix: (groups, strides^2 c, out of a group), orthonormal along the longer of the last two.
    """

    projectors: tuple[int, int, int, int]
    matrix: tuple[int, int, int]


def block_shapes(
    window: int, in_features: int, out_features: int, strides: int = 1, groups: int = 1
) -> BlockShapes:
    """The shapes of what `block_orthogonal_kernel` is made of.

    Raises:
      ValueError: groups that do not divide the channels, a window less than the strides, or one
        channel a group, which leaves nothing for a projector to choose.

    >>> block_shapes(3, 16, 32)
    BlockShapes(projectors=(4, 1, 32, 16), matrix=(1, 32, 32))
    >>> block_shapes(4, 16, 32, strides=2)
    BlockShapes(projectors=(4, 1, 16, 8), matrix=(1, 64, 32))
    """
    if groups < 1 or in_features % groups or out_features % groups:
        raise ValueError(
            f"`groups` divides the channels, got groups={groups} for {in_features} in and "
            f"{out_features} out."
        )
    if not 1 <= strides <= window:
        raise ValueError(
            "An orthogonal convolution sees every pixel: its window is at least as large as its "
            f"strides, got window={window} and strides={strides}."
        )
    inputs, outputs = in_features // groups, out_features // groups
    channels = max(inputs, outputs // strides**2)
    if window > strides and channels < 2:
        raise ValueError(
            "A projector needs two channels a group to choose from, got "
            f"{in_features} in and {out_features} out with groups={groups} and strides={strides}; "
            "take fewer groups, or a window equal to the strides."
        )
    return BlockShapes(
        (2 * (window - strides), groups, channels, channels // 2),
        (groups, strides**2 * channels, outputs),
    )


def _pairs(projectors):
    """2x2 kernels [steps, groups, 2, 2, c, c]: two taps along the height, then two along the
    width."""
    p = matmul(projectors, projectors.mT)
    taps = jnp.stack([p, eye_like(p) - p], axis=2)  # [2 steps, groups, 2, c, c]
    down, across = jnp.split(taps, 2)
    return matmul(down[:, :, :, None], across[:, :, None])


def _product(kernels):
    """All `kernels` [n, ...] in a row, by pairs: log2 n compositions, each of a batch."""
    n = len(kernels)
    if n == 1:
        return kernels[0]
    even = n - n % 2
    product = _product(compose(kernels[0:even:2], kernels[1:even:2]))
    return compose(product, kernels[-1]) if n % 2 else product


def block_orthogonal_kernel(
    projectors: jax.Array, matrix: jax.Array, in_features: int, strides: int = 1
) -> jax.Array:
    """The kernel [k, k, in / groups, out] of an orthogonal convolution of these strides.

    The product of 2 (k - s) convolutions of two taps, (P, I - P) with P = M M', and of one with
    window and strides s, which is `matrix` and orthogonal since its windows do not overlap (AOC).
    Where the images have fewer numbers than
    the result, in < c, only the first `in` channels are fed: an isometry; where they have more,
    rows of the operator are orthonormal.

    All projectors have rank c // 2. The set of orthogonal convolutions is not connected, and other
    ranks lie in other components (Li et al. 2019).

    Args:
      projectors: M [2 (k - s), groups, c, c // 2], orthonormal columns, the caller's to ensure.
      matrix: [groups, s^2 c, out / groups], orthonormal columns or rows.
      in_features: channels in, of all groups.
      strides: s.

    Cost: in products c^3, for window 3 and strides 1, 35: 2 for the projectors, 8 for pairs of
    them, 16 for the product of those, 9 with the matrix. None depends on the images.

    Raises:
      ValueError: shapes that are not those of `block_shapes`.

    >>> import jax, jax.numpy as jnp
    >>> from orthojax import convolutions
    >>> m, w = jnp.eye(4)[None, None, :, :2], jnp.eye(4)[None]
    >>> kernel = block_orthogonal_kernel(jnp.tile(m, (4, 1, 1, 1)), w, 4)
    >>> kernel.shape, float(convolutions.lipschitz(kernel, (5, 5)))
    ((3, 3, 4, 4), 1.0)
    """
    steps, groups, channels, _ = projectors.shape
    inputs, outputs = in_features // groups, matrix.shape[-1]
    expected = block_shapes(steps // 2 + strides, in_features, outputs * groups, strides, groups)
    if (projectors.shape, matrix.shape) != expected:
        raise ValueError(
            f"`projectors` and `matrix` have the shapes of {expected}, got "
            f"{tuple(projectors.shape)} and {tuple(matrix.shape)}."
        )
    projectors, matrix = at_least_float32(projectors), at_least_float32(matrix)
    last = matrix.reshape(groups, strides, strides, channels, outputs)
    if not steps:
        kernel = last[..., :inputs, :]
    else:
        first = _product(_pairs(projectors))  # [groups, k - s + 1, k - s + 1, c, c]
        kernel = compose(first[..., :inputs, :], last)
    return from_groups(jnp.moveaxis(kernel, 0, 2))
