"""Steepest descent on the spectral sphere |W|_2 = R: its tangent of spectral norm 1, and the way
back."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from orthojax.decompositions import polar_express
from orthojax.linalg import frobenius, matmul, random_columns
from orthojax.matrices import MatrixAxes, Rules, Views
from orthojax.sharding import batch_specs, on_auto_axes
from orthojax.spectral import power_step
from orthojax.transforms.riemannian import require_params


class SphereState(NamedTuple):
    """State of the two links of `spectral_sphere`."""

    sphere_vectors: (
        chex.ArrayTree
    )  # params tree, each kernel replaced by unit vectors [*batch, p, 1]


def sphere_tangent(
    u: jax.Array, v: jax.Array, g: jax.Array, steps: int = 5, solves: int = 8
) -> jax.Array:
    """The X, |X|_2 <= 1, of the largest <G, X> that leaves the largest singular value of W as it is
    to first order: u'X v = 0 for its singular vectors `u` [..., n, 1] and `v` [..., p, 1].

    X is the polar factor of G + m u v' (Spectral Sphere Optimizer, Xie et al. 2026,
    arXiv:2601.08393) for the m at which f(m) = u'X v, which grows with m, is 0: found by the secant
    method within a bracket that shrinks, from m = -u'G v, where G has no part along u v'; then
    between the ends of the bracket, so that u'X v is 0 whatever their distance.

    Cost: `solves` + 1 polar factors of `steps`.
    """
    size = frobenius(g)[..., None, None]
    g = g / jnp.where(size > 0, size, 1)
    across = lambda x: matmul(u.mT, matmul(x, v))
    factor = lambda m: polar_express(g + m * matmul(u, v.mT), steps)
    # f has the sign of m beyond twice the nuclear norm of G.
    far = jnp.full_like(size, 2 * g.shape[-1] ** 0.5)
    first = -across(g)
    first_value = across(factor(first))
    # About Newton's step: the derivative of f is one over a typical singular value.
    second = first - first_value / g.shape[-1] ** 0.5

    def solve(_, carry):
        (low, *_), (high, *_), (old, old_value), m = carry
        x = factor(m)
        value = across(x)
        ends = [
            tuple(jnp.where(is_new, new, end) for new, end in zip((m, value, x), ends, strict=True))
            for is_new, ends in zip((value < 0, value >= 0), carry[:2], strict=True)
        ]
        slope = (value - old_value) / jnp.where(m == old, 1, m - old)
        secant = m - value / jnp.where(slope > 0, slope, 1)
        (low, *_), (high, *_) = ends
        is_inside = (slope > 0) & (secant > low) & (secant < high)
        return *ends, (m, value), jnp.where(is_inside, secant, (low + high) / 2)

    along, one = matmul(u, v.mT), jnp.ones_like(size)
    start = (-far, -one, -along), (far, one, along), (first, first_value), second
    (_, below, x_low), (_, above, x_high), *_ = jax.lax.fori_loop(0, solves, solve, start)
    # Where G + m u v' is singular f jumps, over 0 maybe: what is between is best there.
    return (above * x_low - below * x_high) / (above - below)


def _with_vectors(name, step, axes):
    """The transformation of (update, W, v) -> (update, v) with the unit vectors v as state."""

    def first(w):
        v = jnp.broadcast_to(random_columns(w, 1), (*w.shape[:-2], w.shape[-1], 1))
        apply = lambda v: matmul(w.mT, matmul(w, v))
        return power_step(apply, v / frobenius(v)[..., None, None], 20)

    def init_fn(params):
        views = Views.of(params, axes)
        start = lambda params: (views.map(first, views.matrices(params)),)
        like = batch_specs(views, params, start)
        (vectors,) = on_auto_axes(start, params, like=like)
        return SphereState(sphere_vectors=vectors)

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        require_params(params, name)
        views = Views.of(params, axes)

        def all_steps(updates, params, vectors):
            matrices = views.matrices(updates), views.matrices(params)
            found, vectors = views.map(step, *matrices, vectors, outputs=2)
            return views.unview(found, updates), vectors

        like = updates, state.sphere_vectors
        updates, vectors = on_auto_axes(all_steps, updates, params, state.sphere_vectors, like=like)
        return updates, SphereState(sphere_vectors=vectors)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def spectral_sphere(
    learning_rate: optax.ScalarOrSchedule,
    radius: float = 1.0,
    momentum: float = 0.9,
    iterations: int = 4,
    steps: int = 5,
    solves: int = 8,
    axes: MatrixAxes | Rules | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Steepest descent in the spectral norm on the sphere |W|_2 = `radius` (Spectral Sphere
    Optimizer, Xie et al. 2026, arXiv:2601.08393): momentum, `sphere_tangent`, a step of the
    spectral norm `learning_rate` `radius`, and W scaled back to the sphere.

    It must be last in its chain. Weights that start elsewhere are scaled by the first update. Where
    singular values are about equal, as in orthonormal W, "the largest" is any of them, and its
    power iteration slow: the norm is then within the differences of theirs.

    Args:
      radius: above 0; for an operator norm between root mean squares, sqrt(out / in).
      iterations: of the power method at each update, for each of the two links.
      steps, solves: as in `sphere_tangent`.
      axes: as in `reparameterize`.

    State: a copy of params, and 2 p numbers a matrix. Cost: `solves` + 1 polar factors; 140 u at
    512 x 512, u the time of one product n p^2: that of `muon` ten times.

    Raises ValueError where params are missing or an argument is out of range.
    """
    for name, value in (("iterations", iterations), ("steps", steps), ("solves", solves)):
        if value < 1:
            raise ValueError(f"`{name}` is their number, at least 1, got {value}.")
    if isinstance(radius, int | float) and not radius > 0:
        raise ValueError(f"`radius` is the spectral norm of W, above 0, got {radius}.")

    def top(x, v):
        v = power_step(lambda v: matmul(x.mT, matmul(x, v)), v, iterations)
        xv = matmul(x, v)
        norm = frobenius(xv)[..., None, None]
        return v, xv, jnp.where(norm > 0, norm, 1)

    def direction(g, w, v):
        v, wv, norm = top(w, v)
        return radius * sphere_tangent(wv / norm, v, g, steps, solves), v

    def scale(u, w, v):
        x = w + u
        v, _, norm = top(x, v)
        return radius / norm * x - w, v

    return optax.chain(
        optax.trace(momentum),
        _with_vectors("spectral_sphere", direction, axes),
        optax.scale_by_learning_rate(learning_rate),
        _with_vectors("spectral_sphere", scale, axes),
    )
