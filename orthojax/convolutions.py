"""Circular convolutions as matrices: what they do to lengths, exactly.

Kernels are HWIO, [k, l, in / groups, out], images NHWC; windows, padding and the order of groups
are those of `flax.nnx.Conv(..., padding="CIRCULAR")`: y[i] = sum_t x[s i + t - (k - 1) // 2] K[t].
A Fourier transform takes such an operator apart into one small matrix a frequency (Sedghi, Gupta,
Long 2019, arXiv:1805.10408), of which orthogonality, singular values and the Lipschitz constant are
read off.

Orthogonal convolutions: `fourier_convolutions`, `skew_convolutions`, `block_convolutions`.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from orthojax.linalg import at_least_float32, matmul


def check_image(image_shape: Sequence[int], window: Sequence[int], strides: int) -> None:
    """Raises ValueError unless images of height and width `image_shape` can be convolved."""
    height, width = image_shape
    if strides < 1 or height % strides or width % strides:
        raise ValueError(
            "A circular convolution needs images that `strides` divides, got "
            f"strides={strides} for images of {height} x {width}."
        )
    if window[0] > height or window[1] > width:
        raise ValueError(
            f"A window of {window[0]} x {window[1]} is larger than images of {height} x {width} "
            "and would meet a pixel twice; take a smaller window or fewer strides before."
        )


def _check_groups(kernel, groups):
    if kernel.ndim != 4 or groups < 1 or kernel.shape[-1] % groups:
        raise ValueError(
            "A kernel has the shape (height, width, in / groups, out) with `groups` a divisor of "
            f"out, got {tuple(kernel.shape)} and groups={groups}."
        )


def circular_convolution(
    x: jax.Array,
    kernel: jax.Array,
    strides: int = 1,
    groups: int = 1,
    precision: jax.lax.PrecisionLike = None,
) -> jax.Array:
    """The convolution of images `x` [B, H, W, in] by `kernel` [k, l, in / groups, out], with
    circular padding: [B, H / strides, W / strides, out].

    Args:
      x: any floating-point dtype; x and kernel are promoted to one.
      kernel: window, channels in of a group, channels out of all groups.
      strides: a divisor of H and W.
      groups: of channels, which do not mix.
      precision: of the products. An accelerator's default is also the precision to which an
        orthogonal convolution is one; "highest" keeps it at float32.

    Raises:
      ValueError: strides that do not divide the image, a window larger than it, channels that do
        not fit.

    >>> import jax.numpy as jnp
    >>> circular_convolution(jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 5)), strides=2).shape
    (1, 2, 2, 5)
    """
    _check_groups(kernel, groups)
    check_image(x.shape[1:3], kernel.shape[:2], strides)
    if x.shape[-1] != groups * kernel.shape[2]:
        raise ValueError(
            f"`x` has {x.shape[-1]} channels, and a kernel of shape {tuple(kernel.shape)} with "
            f"groups={groups} takes {groups * kernel.shape[2]}."
        )
    dtype = jnp.promote_types(x.dtype, kernel.dtype)
    pads = [((k - 1) // 2, k // 2) for k in kernel.shape[:2]]
    return jax.lax.conv_general_dilated(
        jnp.pad(x, [(0, 0), *pads, (0, 0)], mode="wrap").astype(dtype),
        kernel.astype(dtype),
        (strides, strides),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        precision=precision,
    )


def space_to_depth(x: jax.Array, size: int) -> jax.Array:
    """`x` [B, H, W, C] as [B, H / size, W / size, C size^2], each square of pixels as the channels
    of one: a permutation, which turns strides into channels. Groups of channels stay together.

    >>> import jax.numpy as jnp
    >>> space_to_depth(jnp.arange(4.0).reshape(1, 2, 2, 1), 2).shape
    (1, 1, 1, 4)
    """
    check_image(x.shape[1:3], (1, 1), size)
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // size, size, width // size, size, channels)
    return jnp.transpose(x, (0, 1, 3, 5, 2, 4)).reshape(
        batch, height // size, width // size, channels * size**2
    )


def on_torus(kernel: jax.Array, image_shape: Sequence[int]) -> jax.Array:
    """The answer [H, W, in, out] to a pulse at pixel (0, 0), whose Fourier transform has the
    matrices, of rows of channels in times columns of channels out, that the operator is made of."""
    check_image(image_shape, kernel.shape[:2], 1)
    rows, columns = (
        jnp.mod((k - 1) // 2 - jnp.arange(k), n)
        for k, n in zip(kernel.shape[:2], image_shape, strict=True)
    )
    pulse = jnp.zeros((*image_shape, *kernel.shape[2:]), kernel.dtype)
    return pulse.at[rows[:, None], columns].set(kernel)


def by_groups(kernel: jax.Array, groups: int) -> jax.Array:
    """`kernel` [..., in / groups, out] as [..., groups, in / groups, out / groups]."""
    *first, inputs, outputs = kernel.shape
    split = kernel.reshape(*first, inputs, groups, outputs // groups)
    return jnp.moveaxis(split, -2, -3)


def from_groups(kernel: jax.Array) -> jax.Array:
    """The inverse of `by_groups`."""
    joined = jnp.moveaxis(kernel, -3, -2)
    return joined.reshape(*joined.shape[:-2], -1)


def singular_values(
    kernel: jax.Array, image_shape: Sequence[int], strides: int = 1, groups: int = 1
) -> jax.Array:
    """All singular values of the circular convolution by `kernel` of images of `image_shape` (H,
    W): [groups, H / s, W / s, min(s^2 in, out)] of channels of a group, s strides, descending on
    the last axis.

    At each frequency of the small output s^2 frequencies of the input meet, K_j their matrices:
    the singular values are those of the stack of all K_j / s. Exact, by an SVD of each, so for
    looking at, not for a training step. An orthogonal convolution has ones only.

    Args:
      kernel: [k, l, in / groups, out], float32 at least after promotion.
      image_shape: not smaller than the window, and a multiple of `strides`.
      strides, groups: of the convolution.

    >>> import jax.numpy as jnp
    >>> mean = jnp.full((2, 2, 1, 1), 0.25)  # The mean over squares, with strides of 2.
    >>> singular_values(mean, (4, 4), strides=2).shape, float(lipschitz(mean, (4, 4), strides=2))
    ((1, 2, 2, 1), 0.5)
    """
    _check_groups(kernel, groups)
    check_image(image_shape, kernel.shape[:2], strides)
    pulse = by_groups(on_torus(at_least_float32(kernel), image_shape), groups)
    matrices = jnp.fft.fft2(pulse, axes=(0, 1))  # [H, W, groups, in, out]
    height, width, _, inputs, outputs = matrices.shape
    s, small = strides, (height // strides, width // strides)
    matrices = matrices.reshape(s, small[0], s, small[1], groups, inputs, outputs)
    matrices = jnp.transpose(matrices, (4, 1, 3, 0, 2, 5, 6)) / s
    matrices = matrices.reshape(groups, *small, s * s * inputs, outputs)
    return jnp.linalg.svd(matrices, compute_uv=False)


def lipschitz(
    kernel: jax.Array, image_shape: Sequence[int], strides: int = 1, groups: int = 1
) -> jax.Array:
    """The Lipschitz constant [] of a circular convolution in the Euclidean norm: its largest
    singular value. Arguments as of `singular_values`."""
    return jnp.max(singular_values(kernel, image_shape, strides, groups))


def overlap(window: Sequence[int], strides: int = 1) -> float:
    """The root of how many windows meet a pixel at most, by which a kernel may stretch an image
    more than its matrix [k l in, out] stretches a window: 1 where windows do not overlap.

    So a kernel with orthonormal columns or rows (by `MatrixAxes`), divided by this, is a
    convolution that does not stretch, orthogonal only where windows do not overlap (Tsuzuku, Sato,
    Sugiyama 2018, arXiv:1802.04034).

    >>> overlap((3, 3)), overlap((2, 2), strides=2)
    (3.0, 1.0)
    """
    across, down = (-(-k // strides) for k in window)
    return (across * down) ** 0.5


def compose(first: jax.Array, second: jax.Array) -> jax.Array:
    """The kernel [..., k + m - 1, l + n - 1, a, c] of one convolution that does what `first`
    [..., k, l, a, b] and then `second` [..., m, n, b, c] do, but for a shift of the image: only
    the second may have strides. Leading axes, as of groups, are batch.

    One product of the matrices [k l a, b] and [b, m n c], whose blocks are added where they
    overlap (the block convolution of Xiao et al. 2018, arXiv:1806.05393).

    Raises:
      ValueError: channels that do not meet.
    """
    if first.shape[-1] != second.shape[-2]:
        raise ValueError(
            "`first` yields the channels that `second` takes, got kernels of shape "
            f"{tuple(first.shape)} and {tuple(second.shape)}."
        )
    *batch, a, b = first.shape
    *_, m, n, _, c = second.shape
    left = first.reshape(*batch[:-2], -1, b)
    right = jnp.moveaxis(second, -2, -4).reshape(*batch[:-2], b, -1)
    blocks = matmul(left, right).reshape(*batch, a, m, n, c)
    rows = sum(_shifted(blocks[..., i, :, :], i, m, axis=-5) for i in range(m))
    return sum(_shifted(rows[..., j, :], j, n, axis=-3) for j in range(n))


def _shifted(x, by, of, axis):
    """`x` with `by` of `of` - 1 zeros before and the others behind it."""
    pads = [(0, 0)] * x.ndim
    pads[axis] = (by, of - 1 - by)
    return jnp.pad(x, pads)
