"""Activations for deep networks without normalization, changed so that the kernel of the network
at initialization does not degenerate: TAT and DKS.

A wide layer f(x W), W orthogonal or Gaussian and without bias, maps the mean square q of its inputs
and the cosine c of two of mean square 1 to

    Q(q) = E f(sqrt(q) z)^2,    C(c) = E f(u) f(v),

z, u, v standard normal, E uv = c. In a deep network C^L(c) tends to 1 for all c (inputs become
indistinguishable) or C' explodes, unless Q(1) = Q'(1) = 1 and C is near the identity, the nearer
the deeper the network. Deep Kernel Shaping (DKS): Martens, Ballard, Desjardins, Swirszcz, Dalibard,
Sohl-Dickstein, Schoenholz 2021, arXiv:2110.01765. Tailored Activation Transformation (TAT): Zhang,
Botev, Martens 2022, arXiv:2203.08120.

All is computed in float64 on concrete numbers when the model is built, also under a trace. Inputs
should have mean square 1. Kernels [in, out] keep it if semi-orthogonal times max(1, sqrt(out/in)).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from orthojax.linalg import wide_dtype

Activation = Callable[[jax.Array], jax.Array]
# The number L of activations of a plain network, or (local, x) -> the largest value that x takes
# through any subnetwork when every activation maps it by `local`, and every weighted sum of
# branches averages it, with the squares of their weights.
Depth = int | Callable[[Callable[[float], float], float], float]

# The trapezoidal rule for E g(z): for analytic g its error is below rounding, as are the tails
# beyond 10.
_NODES = np.linspace(-10, 10, 401)
_WEIGHTS = np.exp(-(_NODES**2) / 2) / np.sum(np.exp(-(_NODES**2) / 2))


def _through(depth: Depth, local, x):
    if callable(depth):
        return depth(local, x)
    if depth < 1:
        raise ValueError(f"`depth` is the number of activations, at least 1, got {depth}.")
    for _ in range(depth):
        x = local(x)
    return x


def leaky_relu_c_map(c: float | np.ndarray, slope: float) -> float | np.ndarray:
    """C(c) of sqrt(2 / (1 + a^2)) max(x, a x), a = `slope`, for which Q(q) = q:

    ((1 - a)^2 (sqrt(1 - c^2) + (pi - arccos c) c) / pi + 2 a c) / (1 + a^2).

    By NumPy, for c of any shape. arXiv:2203.08120; a = 0 is Cho and Saul 2009.

    >>> round(float(leaky_relu_c_map(0.0, 0.0)), 4), float(leaky_relu_c_map(0.3, 1.0))
    (0.3183, 0.3)
    """
    arc = np.sqrt(1 - c * c) + (np.pi - np.arccos(c)) * c
    return ((1 - slope) ** 2 / np.pi * arc + 2 * slope * c) / (1 + slope * slope)


def tailored_leaky_relu_slope(depth: Depth, eta: float = 0.9) -> float:
    """a in (0, 1) with C_a^L(0) = eta: TAT for LeakyReLU, arXiv:2203.08120.

    Two orthogonal inputs leave L = `depth` activations with the cosine eta.

    Args:
      depth: L, or a function (local, x) -> the largest value of x over all subnetworks.
      eta: in (0, 1). ReLU, a = 0, bounds it: shallow networks reach no large one.

    Raises:
      ValueError: where eta is not reached.

    >>> round(tailored_leaky_relu_slope(50), 4)
    0.4305
    """

    def largest(slope):
        # Weighted sums may round above 1.
        return float(_through(depth, lambda c: leaky_relu_c_map(min(c, 1.0), slope), 0.0))

    if not 0 < eta < 1:
        raise ValueError(f"`eta` is a cosine between 0 and 1, both excluded, got {eta}.")
    if largest(0.0) <= eta:
        raise ValueError(
            f"`eta` {eta} is not reached at this `depth`: orthogonal inputs leave even ReLU with "
            f"the cosine {largest(0.0):.3f}. Choose a smaller `eta`, or ReLU itself."
        )
    return optimize.brentq(lambda slope: largest(slope) - eta, 0.0, 1.0, xtol=1e-12)


def tailored_leaky_relu(depth: Depth, eta: float = 0.9) -> Activation:
    """x -> sqrt(2 / (1 + a^2)) max(x, a x), a = `tailored_leaky_relu_slope(depth, eta)`.

    Of each entry of an array of any shape and floating dtype.

    >>> import jax.numpy as jnp
    >>> tailored_leaky_relu(100)(jnp.array([1.0, -1.0])).round(4)
    Array([ 1.2284, -0.7007], dtype=float32)
    """
    slope = tailored_leaky_relu_slope(depth, eta)
    scale = (2 / (1 + slope**2)) ** 0.5
    return lambda x: jnp.where(x < 0, scale * slope, scale).astype(x.dtype) * x


class Shaping(NamedTuple):
    """f^(x) = gamma (f(alpha x + beta) + delta), four floats."""

    input_scale: float  # alpha > 0
    input_shift: float  # beta
    output_scale: float  # gamma > 0
    output_shift: float  # delta

    def apply(self, activation: Activation) -> Activation:
        """x -> f^(x), of each entry of an array.

        In float32 at least, whatever x is: f + delta is a difference of near numbers.
        """

        def shaped(x):
            wide = x.astype(wide_dtype(x.dtype))
            y = activation(self.input_scale * wide + self.input_shift) + self.output_shift
            return (self.output_scale * y).astype(x.dtype)

        return shaped


def deep_kernel_shaping(activation: Activation, depth: Depth, zeta: float = 1.5) -> Shaping:
    """DKS: Q(1) = Q'(1) = 1, C(0) = 0 and C'(1) = zeta^{1/L}, so that (C^L)'(1) = zeta.

    arXiv:2110.01765. In expectations over z, with f^ as in `Shaping`: E f^2 = 1, E z f^ f^' = 1,
    E f^ = 0, E f^'^2 = zeta^{1/L}.

    Args:
      activation: smooth, of each entry, e.g. `jnp.tanh` or `jax.nn.softplus`.
      depth: L, or a function (local, x) -> the largest value of x over all subnetworks.
      zeta: above 1. The larger, the less linear the network.

    Raises:
      ValueError: where no solution is found: the activation has kinks, or the network is too
        shallow for zeta.

    >>> import jax.numpy as jnp
    >>> shaping = deep_kernel_shaping(jnp.tanh, depth=100)
    >>> [round(value, 3) for value in shaping]
    [0.09, 0.56, 14.903, -0.505]
    >>> f = shaping.apply(jnp.tanh)
    >>> [round(float(y), 2) for y in f(jnp.array([0.0, 1.0, 2.0]))]
    [0.05, 1.0, 1.86]
    """
    if not zeta > 1:
        raise ValueError(f"`zeta` is a slope above 1, got {zeta}.")

    def excess(slope):
        return _through(depth, lambda x: slope * x, 1.0) - zeta

    def conditions(alpha, s, s1, s2, target):
        del s2
        delta = -_WEIGHTS @ s
        square = 1 / (_WEIGHTS @ (s + delta) ** 2)
        slope = square * alpha**2 * (_WEIGHTS @ s1**2)
        q_slope = square * alpha * (_WEIGHTS @ (_NODES * (s + delta) * s1))
        return (square**0.5, delta), ((slope - 1) / target - 1, (q_slope - 1) / target)

    target = optimize.brentq(excess, 1.0, zeta + 1e-9, xtol=1e-15) - 1
    return _solve(activation, target, 2.0, conditions, "smaller `zeta`")


def tailored(activation: Activation, depth: Depth, tau: float = 0.3) -> Shaping:
    """TAT: Q(1) = Q'(1) = C'(1) = 1 and C''(1) = tau / L, so that (C^L)''(1) = tau.

    arXiv:2203.08120. In expectations over z, with f^ as in `Shaping`: E f^2 = 1, E f^ f^'' = 0,
    E f^'^2 = 1, E f^''^2 = tau / L.

    Args:
      activation: smooth, of each entry. For ReLU and LeakyReLU: `tailored_leaky_relu`.
      depth: L, or a function (local, x) -> the largest value of x over all subnetworks.
      tau: above 0. The larger, the less linear the network.

    Raises:
      ValueError: where no solution is found: the activation has kinks, or the network is too
        shallow for tau.

    >>> import jax.numpy as jnp
    >>> [round(value, 3) for value in tailored(jnp.tanh, depth=100)]
    [0.058, 0.522, 22.507, -0.48]
    """
    if not tau > 0:
        raise ValueError(f"`tau` is a curvature above 0, got {tau}.")

    def conditions(alpha, s, s1, s2, target):
        delta = -(_WEIGHTS @ (s * s2)) / (_WEIGHTS @ s2)
        slope = _WEIGHTS @ s1**2
        square = 1 / (alpha**2 * slope)
        q = square * (_WEIGHTS @ (s + delta) ** 2)
        curvature = alpha**2 * (_WEIGHTS @ s2**2) / slope
        return (square**0.5, delta), (curvature / target - 1, (q - 1) / target)

    # The largest curvature grows in proportion to that of one layer.
    target = tau / _through(depth, lambda x: x + 1, 0.0)
    return _solve(activation, target, 2**0.5, conditions, "smaller `tau`")


def _derivatives(activation):
    """x [m] -> f, f', f'', f''' [4, m] in float64."""

    def derivative(f):
        return lambda x: jax.jvp(f, (x,), (jnp.ones_like(x),))[1]

    @jax.jit
    def stacked(x):
        functions = [activation]
        for _ in range(3):
            functions.append(derivative(functions[-1]))
        return jnp.stack([f(x) for f in functions])

    def evaluate(x):
        with jax.ensure_compile_time_eval(), jax.enable_x64(True):
            return np.asarray(stacked(jnp.asarray(x)), np.float64)

    return evaluate


def _solve(activation, target, multiple, conditions, remedy) -> Shaping:
    """The alpha and beta where the two residuals of `conditions` vanish.

    For small targets t, i.e. in deep networks, alpha is small and the conditions can be expanded in
    it: beta solves f''^2 + m f' f''' = 0, alpha = m sqrt(t / 2) |f' / f''|, with m = 2 for DKS and
    sqrt 2 for TAT. Of several beta the one nearest to 0 is taken, the positive one of two (TAT also
    has solutions near m = -sqrt 2, farther from 0). From there t is doubled up to the target.
    """
    name = getattr(activation, "__name__", activation)
    evaluate = _derivatives(activation)
    grid = _NODES * 0.4  # As many points as nodes: one compilation.
    _, s1, s2, s3 = evaluate(grid)
    h = s2**2 + multiple * s1 * s3
    (left,) = np.nonzero((h[:-1] < 0) != (h[1:] < 0))
    if not left.size:
        raise ValueError(
            f"`activation` {name} is not smooth, or not curved as needed anywhere in [-4, 4]: use "
            "tanh, softplus, gelu or silu; for ReLU and LeakyReLU see `tailored_leaky_relu`."
        )
    betas = grid[left] - h[left] * (grid[left + 1] - grid[left]) / (h[left + 1] - h[left])
    i = min(range(len(betas)), key=lambda i: (round(abs(betas[i]), 3), -betas[i]))
    ratio = abs(s1[left[i]] / s2[left[i]])

    def residuals(unknowns, target):
        alpha = np.exp(unknowns[0])
        return conditions(alpha, *evaluate(alpha * _NODES + unknowns[1])[:3], target)

    doublings = max(0, int(np.ceil(np.log2(target / 1e-3))))
    t = target / 2**doublings
    unknowns = np.array([np.log(multiple * (t / 2) ** 0.5 * ratio), betas[i]])
    with np.errstate(all="ignore"):  # Trial steps may be far off.
        for _ in range(doublings + 1):
            solution = optimize.root(lambda u, t=t: residuals(u, t)[1], unknowns, tol=1e-12)
            if not np.abs(solution.fun).max() < 1e-7:
                raise ValueError(
                    f"No shaping of `activation` {name} found at this `depth`: try a {remedy}, a "
                    "deeper network or another activation."
                )
            t *= 2
            unknowns = solution.x + np.array([np.log(2) / 2, 0])
    (gamma, delta), _ = residuals(solution.x, target)
    return Shaping(*map(float, (np.exp(solution.x[0]), solution.x[1], gamma, delta)))
