"""Riemannian descent as two links of an `optax.chain`: the gradient before, the retraction
after."""

from typing import Literal

import optax

from orthojax.decompositions import orthonormalize
from orthojax.linalg import matmul, tangent
from orthojax.maps import by_name, qr
from orthojax.matrices import MatrixAxes, Rules, Views
from orthojax.parameterization import Parameterization
from orthojax.sharding import on_auto_axes


def require_params(params, name: str):
    """Optax's error for a transformation that needs the current weights."""
    if params is None:
        raise ValueError(
            f"`{name}` needs the current weights: call `update(updates, state, params)`."
        )


def _stateless(update_fn):
    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update_fn)


def riemannian_gradient(
    metric: Literal["euclidean", "canonical"] = "euclidean",
    axes: MatrixAxes | Rules | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Replaces the gradient G of the loss by its Riemannian gradient on the Stiefel manifold.

    In the Euclidean metric, tr(D'D), it is G - W sym(W'G); in the canonical metric,
    tr(D'(I - WW'/2)D), G - W G'W (Edelman, Arias, Smith 1998, arXiv:physics/9806030). For square W
    the second is twice the first. Weights are taken to be
    orthonormal: `retract`, last in the chain, keeps them so. Cost: 2 products n p^2. No state.

    Args:
      metric: "euclidean" or "canonical".
      axes: as in `reparameterize`.

    >>> import optax, orthojax
    >>> tx = optax.chain(
    ...     orthojax.riemannian_gradient(),
    ...     optax.scale_by_adam(),
    ...     optax.scale(-1e-2),
    ...     orthojax.retract("qr"),
    ... )
    """
    if metric not in ("euclidean", "canonical"):
        raise ValueError(f'`metric` is "euclidean" or "canonical", got {metric!r}.')

    def gradient(w, g):
        if metric == "euclidean":
            return tangent(w, g)
        return g - matmul(w, matmul(g.mT, w))

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        require_params(params, "riemannian_gradient")
        views = Views.of(params, axes)

        def all_gradients(updates, params):
            gradients = views.map(gradient, views.matrices(params), views.matrices(updates))
            return views.unview(gradients, updates)

        return on_auto_axes(all_gradients, updates, params, like=params), state

    return _stateless(update_fn)


def last_link(name, step, axes) -> optax.GradientTransformationExtraArgs:
    """The stateless transformation whose update takes each matrix w to step(w, update of w)."""

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        require_params(params, name)
        views = Views.of(params, axes)

        def all_steps(updates, params):
            return views.moves(
                params, views.map(step, views.matrices(params), views.matrices(updates))
            )

        return on_auto_axes(all_steps, updates, params, like=params), state

    return _stateless(update_fn)


def retract(
    retraction: Parameterization | str = "qr", axes: MatrixAxes | Rules | None = None
) -> optax.GradientTransformationExtraArgs:
    """Turns a step in the ambient space into one along the Stiefel manifold: the update that takes
    W to R_W(step).

    The step is projected on the tangent space first, so that momentum from before, or an
    elementwise preconditioner, is transported by projection. Must be last in its chain. Weights
    that are not orthonormal are replaced by the nearest orthonormal ones before the step, and what
    rounding has done since is undone by it; in bfloat16 this renews the rounding at every step, but
    steps below the resolution of the weights are lost: use `reparameterize`, which keeps a float32
    master.

    Args:
      retraction: "cayley", "exponential", "polar", "qr" (here by CholeskyQR2: after a tangent step
        X'X >= I), or a `Parameterization` with `is_retraction`.
      axes: as in `reparameterize`.

    Cost: that of the map's `forward`, and 2 products n p^2 for "qr" and "polar": of square W 3.2 mm
    "cayley", 4 "polar" (where the square of the step is below rounding), 4.7 "qr", 5
    "exponential". No state.
    """
    if retraction == "qr":
        retraction = qr(method="cholesky")
    retraction = by_name(retraction)
    if not retraction.is_retraction:
        raise ValueError(
            '`retraction` is "cayley", "exponential", "polar", "qr" or a Parameterization that is '
            "one; a product of Householder reflections is not: use it in `reparameterize`."
        )

    def step(w, u):
        # The projection removes what little there may be; far off the gradient would mean nothing.
        close = retraction.is_projection
        base = orthonormalize(w, tolerance=1e-2) if close else retraction.init(w)[0]
        return retraction.forward(base, u if retraction.ignores_normal else tangent(base, u))

    return last_link("retract", step, axes)
