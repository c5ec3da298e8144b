"""Flax NNX convolutions that keep lengths, with circular padding; how, see `orthojax.convolutions`.

| module | parameters | operator |
|---|---|---|
| `CayleyConv` | free kernel | orthogonal, as large as the image |
| `SkewConv` | free kernel | orthogonal up to a bounded error, several convolutions |
| `BlockOrthogonalConv` | Stiefel matrices | orthogonal, one convolution |
| `ReshapedConv` | kernel, a Stiefel matrix | does not stretch; orthogonal if strides = window |

With more channels out than in (times strides^2) an isometry, with less its adjoint: orthonormal
rows. Stiefel matrices are the optimizer's to keep: `orthojax.orthogonal` with `RULES`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from orthojax.block_convolutions import block_orthogonal_kernel, block_shapes
from orthojax.convolutions import check_image, circular_convolution, overlap, space_to_depth
from orthojax.fourier_convolutions import cayley_spectrum, fourier_convolution
from orthojax.initializers import Initializer, orthogonal
from orthojax.matrices import MatrixAxes
from orthojax.skew_convolutions import bounded_skew_kernel, exponential_convolution

_LECUN = nnx.initializers.lecun_normal()
_STACK = MatrixAxes(-2, -1)

# For `orthojax.orthogonal`: what of these modules lies on Stiefel manifolds, but for the kernels of
# `ReshapedConv`, which go by their path: (r"...kernel", "orthogonal").
RULES = ((r"(.*/)?(projectors|matrix)", _STACK),)


class _Conv(nnx.Module):
    """What the convolutions share: sizes, bias, checks."""

    def __init__(
        self, in_features, out_features, window, strides, groups, use_bias, param_dtype, precision
    ):
        for name, value in (("in_features", in_features), ("out_features", out_features)):
            if groups < 1 or value % groups:
                raise ValueError(f"`groups` divides {name}={value}, got groups={groups}.")
        if window < 1 or strides < 1:
            raise ValueError(f"`window` and `strides` are at least 1, got {window} and {strides}.")
        self.in_features, self.out_features = in_features, out_features
        self.window, self.strides, self.groups = window, strides, groups
        self.precision = precision
        self.bias = nnx.Param(jnp.zeros(out_features, param_dtype)) if use_bias else None

    def _checked(self, x):
        if x.ndim != 4 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"Images have the shape [B, H, W, {self.in_features}], got {tuple(x.shape)}."
            )
        check_image(x.shape[1:3], (1, 1), self.strides)
        return x

    def _biased(self, y, x):
        """`y`, computed in float32 at least, plus the bias, in the dtype of x and parameters."""
        dtype = x.dtype if self.bias is None else jnp.promote_types(x.dtype, self.bias.dtype)
        if self.bias is not None:
            y = y + self.bias[...].reshape(1, 1, 1, -1)
        return y.astype(dtype)


class CayleyConv(_Conv):
    """The Cayley transform of a kernel at each frequency of the image (Trockman, Kolter 2021,
    arXiv:2104.07167): `cayley_spectrum`.

    Free `kernel` [window, window, strides^2 in / groups, out], `bias` [out]. Strides are taken by
    `space_to_depth` first, so that the window is one of squares of pixels.

    >>> import jax, jax.numpy as jnp
    >>> conv = CayleyConv(4, 8, 3, strides=2, rngs=nnx.Rngs(0))
    >>> jax.eval_shape(conv, jnp.ones((2, 6, 6, 4))).shape
    (2, 3, 3, 8)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        window: int = 3,
        *,
        strides: int = 1,
        groups: int = 1,
        use_bias: bool = True,
        kernel_init: Callable[..., jax.Array] = _LECUN,
        param_dtype: Any = jnp.float32,
        precision: jax.lax.PrecisionLike = None,
        rngs: nnx.Rngs,
    ):
        """
        Args:
          in_features, out_features: channels, of all groups.
          window: height and width of the kernel.
          strides: a divisor of the height and the width of the images.
          groups: of channels, which do not mix.
          use_bias: whether a bias is added.
          kernel_init: of the kernel.
          param_dtype: of the parameters.
          precision: of the convolution; here products always have the highest.
          rngs: stream `params`.

        Raises:
          ValueError: groups that do not divide the channels.
        """
        super().__init__(
            in_features, out_features, window, strides, groups, use_bias, param_dtype, precision
        )
        shape = (window, window, strides**2 * in_features // groups, out_features)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, param_dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = space_to_depth(self._checked(x), self.strides)
        spectrum = cayley_spectrum(self.kernel[...], y.shape[1:3], self.groups)
        return self._biased(fourier_convolution(y, spectrum), x)


class SkewConv(_Conv):
    """exp of a skew-symmetric convolution (SOC; Singla, Feizi 2021, arXiv:2105.11417):
    `exponential_convolution` by `bounded_skew_kernel`, off from orthogonal by at most
    `truncation_error(angle, terms)`.

    Free `kernel` [window, window, c / groups, c], c = max(strides^2 in, out), odd window, `bias`
    [out]. Missing channels are zeros, superfluous ones are dropped; strides as in `CayleyConv`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        window: int = 3,
        *,
        strides: int = 1,
        groups: int = 1,
        angle: float = 1.0,
        terms: int = 10,
        use_bias: bool = True,
        kernel_init: Callable[..., jax.Array] = _LECUN,
        param_dtype: Any = jnp.float32,
        precision: jax.lax.PrecisionLike = None,
        rngs: nnx.Rngs,
    ):
        """
        Args:
          angle: bound of the norm of the skew convolution, i.e. of the angles of the rotation.
          terms: of the exponential series, one convolution less than that.
          (others): as of `CayleyConv`.

        Raises:
          ValueError: an even window, or groups that do not divide the channels.
        """
        super().__init__(
            in_features, out_features, window, strides, groups, use_bias, param_dtype, precision
        )
        if not window % 2:
            raise ValueError(f"A skew-symmetric convolution has an odd window, got {window}.")
        if not angle > 0 or terms < 1:
            raise ValueError(f"`angle` > 0 and `terms` >= 1, got {angle} and {terms}.")
        self.angle, self.terms = angle, terms
        channels = max(strides**2 * in_features, out_features)
        shape = (window, window, channels // groups, channels)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, param_dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = space_to_depth(self._checked(x), self.strides)
        check_image(y.shape[1:3], (self.window, self.window), 1)
        kernel = bounded_skew_kernel(self.kernel[...], self.angle, self.groups)
        y = self._resized(y, kernel.shape[-1])
        y = exponential_convolution(y, kernel, self.terms, self.groups, self.precision)
        return self._biased(self._resized(y, self.out_features), x)

    def _resized(self, y, channels):
        """`y` with the first channels of each group, or with zeros behind them."""
        own, wanted = y.shape[-1] // self.groups, channels // self.groups
        groups = y.reshape(*y.shape[:-1], self.groups, own)[..., :wanted]
        pads = [(0, 0)] * 4 + [(0, max(wanted - own, 0))]
        return jnp.pad(groups, pads).reshape(*y.shape[:-1], channels)


class BlockOrthogonalConv(_Conv):
    """An explicit orthogonal kernel made of orthonormal matrices (BCOP, AOC; Boissin et al. 2025,
    arXiv:2501.08930): `block_orthogonal_kernel`.

    `projectors` and `matrix` of `block_shapes`, orthonormal as long as the optimizer keeps them so,
    e.g. `orthojax.orthogonal(optax.adam(1e-3), rules=[*RULES, (".*", "free")])`, and `bias` [out].

    >>> conv = nnx.eval_shape(lambda: BlockOrthogonalConv(4, 8, 3, rngs=nnx.Rngs(0)))
    >>> conv.projectors.shape, conv.matrix.shape
    ((4, 1, 8, 4), (1, 8, 8))
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        window: int = 3,
        *,
        strides: int = 1,
        groups: int = 1,
        use_bias: bool = True,
        kernel_init: Initializer | None = None,
        param_dtype: Any = jnp.float32,
        precision: jax.lax.PrecisionLike = None,
        rngs: nnx.Rngs,
    ):
        """
        Args:
          kernel_init: of both stacks of orthonormal matrices; by default Haar-distributed.
          (others): as of `CayleyConv`.

        Raises:
          ValueError: as of `block_shapes`.
        """
        super().__init__(
            in_features, out_features, window, strides, groups, use_bias, param_dtype, precision
        )
        shapes = block_shapes(window, in_features, out_features, strides, groups)
        init = orthogonal(axes=_STACK) if kernel_init is None else kernel_init
        if window == strides:
            self.projectors = None  # The windows do not overlap.
        else:
            self.projectors = nnx.Param(init(rngs.params(), shapes.projectors, param_dtype))
        self.matrix = nnx.Param(init(rngs.params(), shapes.matrix, param_dtype))

    def kernel(self) -> jax.Array:
        """The kernel [window, window, in / groups, out], float32 at least."""
        if self.projectors is None:
            shapes = block_shapes(
                self.window, self.in_features, self.out_features, self.strides, self.groups
            )
            projectors = jnp.zeros(shapes.projectors, self.matrix.dtype)
        else:
            projectors = self.projectors[...]
        return block_orthogonal_kernel(projectors, self.matrix[...], self.in_features, self.strides)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = circular_convolution(
            self._checked(x), self.kernel(), self.strides, self.groups, self.precision
        )
        return self._biased(y, x)


class ReshapedConv(_Conv):
    """A convolution by a kernel whose matrix [window^2 in, out] has orthonormal columns or rows (as
    long as the optimizer keeps it so), divided by `overlap`: it does not stretch, and is orthogonal
    if strides = window.

    `kernel` [window, window, in, out], `bias` [out]; rule: ("...kernel", "orthogonal").
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        window: int = 3,
        *,
        strides: int = 1,
        use_bias: bool = True,
        kernel_init: Initializer | None = None,
        param_dtype: Any = jnp.float32,
        precision: jax.lax.PrecisionLike = None,
        rngs: nnx.Rngs,
    ):
        """Arguments as of `CayleyConv`, without groups."""
        super().__init__(
            in_features, out_features, window, strides, 1, use_bias, param_dtype, precision
        )
        init = orthogonal() if kernel_init is None else kernel_init
        shape = (window, window, in_features, out_features)
        self.kernel = nnx.Param(init(rngs.params(), shape, param_dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.kernel[...] / overlap((self.window, self.window), self.strides)
        y = circular_convolution(self._checked(x), kernel, self.strides, precision=self.precision)
        return self._biased(y, x)


CONVOLUTIONS = {
    "cayley": CayleyConv,
    "skew": SkewConv,
    "block": BlockOrthogonalConv,
    "reshaped": ReshapedConv,
}
