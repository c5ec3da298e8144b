"""Flax NNX layers of normalizing flows: z -> (image, log|det|), and `inverse`.

Where a layer holds an orthogonal matrix it is either the leaf `kernel`, which the default rules of
`orthojax.orthogonal` keep orthonormal, or with `reflections` a product of Householder reflections
in the leaf `normals`, for any optimizer.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from orthojax import flows
from orthojax.initializers import Initializer, haar
from orthojax.maps.householder import reflect

normal = nnx.initializers.normal
SMALL, STANDARD = normal(1e-2), normal(1.0)


class Flow(nnx.Module):
    """Layers one after the other; log-determinants add up.

    >>> import jax, jax.numpy as jnp, optax, orthojax
    >>> from flax import nnx
    >>> rngs = nnx.Rngs(0)
    >>> flow = Flow([InvertibleLinear(4, rngs=rngs), Sylvester(4, rngs=rngs)])
    >>> x = jnp.ones((3, 4))
    >>> z, log_det = flow(x)
    >>> bool(jnp.allclose(flow.inverse(z)[0], x, atol=1e-5)), flow.log_density(x).shape
    (True, (3,))
    >>> tx = orthojax.orthogonal(optax.adam(1e-3))  # Keeps both `kernel` leaves orthogonal.
    """

    def __init__(self, layers: Sequence[nnx.Module]):
        self.layers = nnx.List(layers)

    def __call__(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self._chain(z, self.layers)

    def inverse(self, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self._chain(y, [layer.inverse for layer in reversed(self.layers)])

    def log_density(self, x: jax.Array) -> jax.Array:
        """log p(x) [...] in nats, if the images of x are standard normal."""
        z, log_det = self(x)
        return flows.standard_normal(z) + log_det

    @staticmethod
    def _chain(z, layers):
        total = jnp.zeros(z.shape[:-1])
        for layer in layers:
            z, log_det = layer(z)
            total += log_det
        return z, total


class HouseholderFlow(nnx.Module):
    """`orthojax.flows.householder_flow` with trained `normals` [n, k]."""

    def __init__(
        self, width: int, reflections: int, *, param_dtype: Any = jnp.float32, rngs: nnx.Rngs
    ):
        _check_reflections(reflections)
        self.normals = nnx.Param(STANDARD(rngs.params(), (width, reflections), param_dtype))

    def __call__(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        return flows.householder_flow(z, self.normals[...])

    def inverse(self, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        return flows.householder_flow(y, self.normals[...][:, ::-1])


class Sylvester(nnx.Module):
    """`orthojax.flows.sylvester`, invertible whatever the values of `r` and `r_tilde` [p, p].

    Q is `kernel` [n, p], or H(v_1) ... H(v_k) I_{n x p} of `normals` [n, k].
    """

    def __init__(
        self,
        width: int,
        columns: int | None = None,
        *,
        reflections: int | None = None,
        kernel_init: Initializer = haar,
        r_init: Initializer = SMALL,
        r_tilde_init: Initializer | None = None,
        bias_init: Initializer = STANDARD,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """
        Args:
          width: n.
          columns: p, hidden units, at most n, the default.
          reflections: k, how many make up Q; None for a `kernel`.
          kernel_init: of the kernel.
          r_init: of R; small values begin near the identity.
          r_tilde_init: of R~, by default normal with variance 1 / p.
          bias_init: of the bias [p]; different values let hidden units begin at different places.
          param_dtype: of all parameters.
          rngs: stream `params`.

        Raises:
          ValueError: `columns` is not in 1 to n, or `reflections` below 1.
        """
        p = width if columns is None else columns
        if not 1 <= p <= width:
            raise ValueError(f"`columns` is between 1 and width={width}, got {p}.")
        if r_tilde_init is None:
            r_tilde_init = normal(p**-0.5)
        _make_orthogonal(self, (width, p), reflections, kernel_init, param_dtype, rngs)
        self.r = nnx.Param(r_init(rngs.params(), (p, p), param_dtype))
        self.r_tilde = nnx.Param(r_tilde_init(rngs.params(), (p, p), param_dtype))
        self.bias = nnx.Param(bias_init(rngs.params(), (p,), param_dtype))

    def _parameters(self):
        r_tilde = self.r_tilde[...]
        r = flows.invertible(self.r[...], r_tilde)
        return _orthogonal(self, self.bias.shape[0]), r, r_tilde, self.bias[...]

    def __call__(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        return flows.sylvester(z, *self._parameters())

    def inverse(self, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        return flows.sylvester_inverse(y, *self._parameters())


class Planar(nnx.Module):
    """`orthojax.flows.planar` with trained `u` and `w` [n], `bias` []."""

    def __init__(
        self,
        width: int,
        *,
        u_init: Initializer = SMALL,
        bias_init: Initializer = STANDARD,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.u = nnx.Param(u_init(rngs.params(), (width,), param_dtype))
        self.w = nnx.Param(normal(width**-0.5)(rngs.params(), (width,), param_dtype))
        self.bias = nnx.Param(bias_init(rngs.params(), (), param_dtype))

    def __call__(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        return flows.planar(z, self.u[...], self.w[...], self.bias[...])

    def inverse(self, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        return flows.planar_inverse(y, self.u[...], self.w[...], self.bias[...])


class InvertibleLinear(nnx.Module):
    """Q R z + b, log|det| = sum of `log_diagonal` (`orthojax.flows.qr_linear`).

    R has the diagonal exp(`log_diagonal`) [n] and above it `upper` [n, n]; Q is `kernel` [n, n], or
    H(v_1) ... H(v_k) of `normals` [n, k]. Begins as a rotation or reflection. Of images
    [B, H, W, n] an invertible 1 x 1 convolution, of which log|det| is [B, H, W]: sum over H and W.
    """

    def __init__(
        self,
        width: int,
        *,
        reflections: int | None = None,
        sign: int | None = None,
        kernel_init: Initializer = haar,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """
        Args:
          width: n.
          reflections: k, how many make up Q; None for a `kernel`.
          sign: 1 or -1, that of the determinant, which training does not change; None for any.
          kernel_init: of the kernel.
          param_dtype: of all parameters.
          rngs: stream `params`.

        Raises:
          ValueError: `reflections` below 1, or a number of them whose determinant (-1)^k is not
            `sign`.
        """
        if sign not in (None, 1, -1):
            raise ValueError(f"`sign` of the determinant is 1, -1 or None, got {sign}.")
        if None not in (reflections, sign) and (-1) ** reflections != sign:
            parity = "an even" if sign > 0 else "an odd"
            raise ValueError(
                f"A product of {reflections} reflections has determinant {(-1) ** reflections}: "
                f"`sign={sign}` needs {parity} number of `reflections`."
            )
        _make_orthogonal(self, (width, width), reflections, kernel_init, param_dtype, rngs)
        if sign is not None and reflections is None:
            kernel = self.kernel[...]
            flip = jnp.where(jnp.linalg.det(jnp.asarray(kernel, jnp.float32)) * sign < 0, -1, 1)
            self.kernel[...] = kernel.at[:, 0].multiply(flip.astype(kernel.dtype))
        self.log_diagonal = nnx.Param(jnp.zeros(width, param_dtype))
        self.upper = nnx.Param(jnp.zeros((width, width), param_dtype))
        self.bias = nnx.Param(jnp.zeros(width, param_dtype))

    def _factors(self):
        diagonal = jnp.exp(self.log_diagonal[...])
        r = jnp.triu(self.upper[...], 1) + jnp.diag(diagonal)
        return _orthogonal(self, diagonal.shape[0]), r

    def __call__(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        y, log_det = flows.qr_linear(z, *self._factors())
        return y + self.bias[...], log_det

    def inverse(self, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        return flows.qr_linear_inverse(y - self.bias[...], *self._factors())


def _check_reflections(reflections):
    if reflections < 1:
        raise ValueError(f"`reflections` is their number, at least 1, got {reflections}.")


def _make_orthogonal(layer, shape, reflections, kernel_init, param_dtype, rngs):
    """Gives the layer its `kernel` or its `normals`."""
    if reflections is None:
        layer.kernel = nnx.Param(kernel_init(rngs.params(), shape, param_dtype))
        return
    _check_reflections(reflections)
    shape = (shape[0], reflections)
    layer.normals = nnx.Param(STANDARD(rngs.params(), shape, param_dtype))


def _orthogonal(layer, columns):
    """Q [n, columns] of the layer."""
    if hasattr(layer, "kernel"):
        return layer.kernel[...]
    normals = layer.normals[...]
    return reflect(normals, jnp.eye(normals.shape[0], columns, dtype=normals.dtype))
