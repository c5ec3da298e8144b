"""Orthogonal convolutions by the Cayley transform at each frequency (Trockman, Kolter 2021,
arXiv:2104.07167).

The kernel is free. Its window does not bound what the orthogonal operator sees, which has the size
of the image, and depends on it.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from orthojax.convolutions import by_groups, on_torus
from orthojax.inverses import inverse
from orthojax.linalg import at_least_float32, eye_like, matmul


def _real(z):
    """The real matrix [..., 2n, 2p] that does to (Re, Im) what `z` [..., n, p] does."""
    x, y = jnp.real(z), jnp.imag(z)
    top = jnp.concatenate([x, -y], axis=-1)
    return jnp.concatenate([top, jnp.concatenate([y, x], axis=-1)], axis=-2)


def cayley(z: jax.Array) -> jax.Array:
    """Orthonormal columns from any complex or real `z` [..., n, p], n >= p, of blocks U [p, p] and
    V [n - p, p]:

        [2 (I + A)^{-1} - I; -2 V (I + A)^{-1}],   A = U - U* + V* V

    (Trockman, Kolter 2021, with (I + A)^{-1} (I - A) = 2 (I + A)^{-1} - I). The Hermitian part of
    I + A is at least I, so there is always an inverse; it is made of products, as that of the real
    matrix of twice the size.

    Cost: 2 products n p^2 and an inverse p x p, complex. All orthogonal matrices without the
    eigenvalue -1.

    Raises:
      ValueError: more columns than rows.

    >>> import jax.numpy as jnp
    >>> q = cayley(jnp.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0j]]))
    >>> bool(jnp.allclose(q.conj().T @ q, jnp.eye(2), atol=1e-6))
    True
    """
    n, p = z.shape[-2:]
    if n < p:
        raise ValueError(f"`cayley` makes orthonormal columns of a tall matrix, got {n} x {p}.")
    u, v = z[..., :p, :], z[..., p:, :]
    adjoint = lambda x: jnp.conj(x.mT)
    a = u - adjoint(u) + matmul(adjoint(v), v) + eye_like(u)
    if jnp.issubdtype(z.dtype, jnp.complexfloating):
        both = inverse(_real(a))
        inverted = jax.lax.complex(both[..., :p, :p], both[..., p:, :p])
    else:
        inverted = inverse(a)
    return jnp.concatenate([2 * inverted - eye_like(u), -2 * matmul(v, inverted)], axis=-2)


def cayley_spectrum(kernel: jax.Array, image_shape: Sequence[int], groups: int = 1) -> jax.Array:
    """The matrices [H, W // 2 + 1, groups, in, out] at all frequencies, channels of a group, of an
    orthogonal convolution of images of `image_shape` (H, W): the Cayley transform of those of the
    circular convolution by `kernel` [k, l, in / groups, out].

    Orthonormal columns where in >= out, else orthonormal rows. The matrices at opposite frequencies
    are conjugate, as they are for the kernel: the operator is real, for odd sizes and even ones.
    Complex of the precision of the kernel, float32 at least.

    Raises:
      ValueError: a window larger than the image.
    """
    pulse = by_groups(on_torus(at_least_float32(kernel), image_shape), groups)
    matrices = jnp.fft.rfft2(pulse, axes=(0, 1))
    wide = matrices.shape[-2] < matrices.shape[-1]
    return cayley(matrices.mT).mT if wide else cayley(matrices)


def fourier_convolution(x: jax.Array, spectrum: jax.Array) -> jax.Array:
    """`x` [B, H, W, in] times `spectrum` [H, W // 2 + 1, groups, in / groups, out / groups] at each
    frequency, as of `cayley_spectrum`: [B, H, W, out], in float32 at least.

    Cost: two Fourier transforms, and at each frequency a complex product of [B, in] and [in, out].

    Raises:
      ValueError: a spectrum of other images.

    >>> import jax, jax.numpy as jnp
    >>> kernel = jax.random.normal(jax.random.key(0), (3, 3, 2, 4))
    >>> x = jax.random.normal(jax.random.key(1), (1, 5, 6, 2))
    >>> convolve = jax.jit(lambda x: fourier_convolution(x, cayley_spectrum(kernel, (5, 6))))
    >>> y = convolve(x)
    >>> y.shape, bool(jnp.allclose(jnp.linalg.norm(y), jnp.linalg.norm(x), rtol=1e-5))
    ((1, 5, 6, 4), True)
    """
    _, height, width, channels = x.shape
    groups, inputs, outputs = spectrum.shape[2:]
    if spectrum.shape[:2] != (height, width // 2 + 1) or channels != groups * inputs:
        raise ValueError(
            f"A spectrum of shape {tuple(spectrum.shape)} is of other images than x of shape "
            f"{tuple(x.shape)}."
        )
    z = jnp.fft.rfft2(at_least_float32(x), axes=(1, 2))
    z = jnp.moveaxis(z.reshape(*z.shape[:3], groups, inputs), 0, -2)  # [H, F, groups, B, in]
    # Products of real matrices: CPUs have no fast complex ones.
    parts = jnp.concatenate([jnp.real(z), jnp.imag(z)], axis=-1)
    parts = matmul(parts, _real(spectrum.mT).mT)
    z = jax.lax.complex(parts[..., :outputs], parts[..., outputs:])
    z = jnp.moveaxis(z, -2, 0).reshape(len(x), *spectrum.shape[:2], groups * outputs)
    return jnp.fft.irfft2(z, s=(height, width), axes=(1, 2))
