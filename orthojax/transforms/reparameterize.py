"""Trains a parameterization of the weights in place of the weights."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from orthojax.linalg import tangent
from orthojax.maps import by_name
from orthojax.matrices import MatrixAxes, Rules, Views
from orthojax.moments import map_moments
from orthojax.parameterization import Parameterization
from orthojax.sharding import batch_specs, on_auto_axes
from orthojax.transforms.riemannian import require_params


class ReparameterizeState(NamedTuple):
    """State of `reparameterize`."""

    reparameterize_count: jax.Array  # [] int32, number of updates
    base: chex.ArrayTree  # params tree, each kernel replaced by its base
    theta: chex.ArrayTree  # params tree, each kernel replaced by its free parameters
    inner_state: optax.OptState  # state of `inner` for theta


def _pull_back(parameterization, at_base):
    """(base, theta, W, dL/dW) -> dL/dtheta, in the cheapest way there is."""
    if at_base:
        # theta = 0, where a retraction's derivative is the projection on the tangent space.
        return lambda base, theta, w, g: tangent(base, g)
    if parameterization.pull_back is not None:
        return parameterization.pull_back

    def by_vjp(base, theta, w, g):
        del w
        return jax.vjp(lambda t: parameterization.forward(base, t), theta)[1](g)[0]

    return by_vjp


def reparameterize(
    inner: optax.GradientTransformation,
    parameterization: Parameterization | str,
    rebase_every: int | None = None,
    axes: MatrixAxes | Rules | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Lets `inner` train theta in W = forward(base, theta) while the model, its loss and its
    weights stay as they are.

    Each update pulls dL/dW back to dL/dtheta, lets `inner` step theta, and returns the absolute
    difference forward(base, theta) - W, so that rounding is renewed at each step and never
    accumulates.

    Changing the base is `init` applied to the current W: `rebase_every=None` is a static
    parameterization, `1` Riemannian descent with forward(base, .) as its retraction, `K` a dynamic
    trivialization (Lezcano-Casado 2019, arXiv:1909.09501). Moments of `inner` stay in
    their coordinates across a change of base; maps around a point see the tangent part of them
    only, i.e. transport them by projection.

    It must stand last in its chain: what comes after would move W off the manifold. Weights that do
    not start in the image of `forward` are moved there by the first update. Weight decay in `inner`
    decays theta, i.e. pulls W towards its base. Averages of W (EMA, SWA) are not orthogonal.

    Args:
      inner: any Optax optimizer, learning rate included; its state has the shapes of theta, in at
        least float32.
      parameterization: a `Parameterization`, or its name: "cayley", "exponential", "householder",
        "polar", "qr".
      rebase_every: None, or the number of updates between changes of base. With
        `optax.inject_hyperparams` list it in `static_args`.
      axes: which axes of a leaf are rows and columns: a `MatrixAxes` for all leaves, rules
        (pattern, MatrixAxes | None) over parameter paths, or None for Flax's kernels
        (`matrices.default_axes`). Every leaf must be a matrix: choose leaves by `optax.partition`,
        `optax.masked` or `orthojax.orthogonal`.

    Returns:
      An Optax transformation; `update` needs params. Leaves of one matrix shape are computed as one
      batch.

    Raises:
      ValueError: where params are missing, a leaf is not known to be a matrix, or an argument is
        out of range.

    >>> import jax, jax.numpy as jnp, optax, orthojax
    >>> params = {"kernel": jax.nn.initializers.orthogonal()(jax.random.key(0), (5, 3))}
    >>> tx = orthojax.reparameterize(optax.adam(1e-1), "cayley", rebase_every=1)
    >>> state = tx.init(params)
    >>> for _ in range(10):
    ...     grads = jax.grad(lambda p: jnp.sum(p["kernel"] ** 3))(params)
    ...     updates, state = tx.update(grads, state, params)
    ...     params = optax.apply_updates(params, updates)
    >>> bool(orthojax.orthogonality_error(params["kernel"]) < 1e-5)
    True
    """
    if not (hasattr(inner, "init") and hasattr(inner, "update")):
        raise TypeError(
            f"`inner` is an Optax transformation such as optax.adam(1e-3), got {inner!r}."
        )
    inner = optax.with_extra_args_support(inner)
    parameterization = by_name(parameterization)
    if isinstance(rebase_every, int) and rebase_every < 1:
        raise ValueError(
            f"`rebase_every` is None, or a number of updates of at least 1, got {rebase_every}."
        )
    every_step = isinstance(rebase_every, int) and rebase_every == 1
    at_base = every_step and parameterization.is_retraction
    pull_back = _pull_back(parameterization, at_base)

    def init_fn(params):
        views = Views.of(params, axes)

        def split(params):
            return views.map(parameterization.init, views.matrices(params), outputs=2)

        like = batch_specs(views, params, split)
        base, theta = on_auto_axes(split, params, like=like)
        return ReparameterizeState(
            reparameterize_count=jnp.zeros([], jnp.int32),
            base=base,
            theta=theta,
            inner_state=inner.init(theta),
        )

    def update_fn(updates, state, params=None, **extra_args):
        require_params(params, "reparameterize")
        views = Views.of(params, axes)

        def pull_back_all(count, updates, base, theta, params):
            def one(g, base, theta, w):
                if parameterization.is_retraction:
                    # The first gradient was taken at weights that need not be in the image.
                    w = jnp.where(count == 0, base, w)
                return pull_back(base, theta, w, g)

            return views.map(one, views.matrices(updates), base, theta, views.matrices(params))

        def join(count, base, theta, inner_state, params):
            def renewed(base, theta, inner_state, weights):
                if parameterization.is_projection:
                    new_base, theta = weights, jax.tree.map(jnp.zeros_like, theta)
                else:
                    new_base, theta = views.map(parameterization.init, weights, outputs=2)
                if parameterization.is_retraction:
                    weights = new_base
                else:
                    weights = views.map(parameterization.forward, new_base, theta)
                if parameterization.transport is not None:
                    inner_state = map_moments(
                        inner,
                        lambda m, squared, old, new: parameterization.transport(
                            old, new, m, squared
                        ),
                        inner_state,
                        *(base, new_base),
                    )
                return new_base, theta, inner_state, weights

            old = base, theta, inner_state, views.map(parameterization.forward, base, theta)
            if rebase_every is None:
                new = old
            elif every_step:
                new = renewed(*old)
            else:
                due = count % rebase_every == 0
                new = jax.lax.cond(due, renewed, lambda *old: old, *old)
            base, theta, inner_state, weights = new
            return views.moves(params, weights), base, theta, inner_state

        count = optax.safe_increment(state.reparameterize_count)
        grads = on_auto_axes(
            pull_back_all,
            *(state.reparameterize_count, updates, state.base, state.theta, params),
            like=state.theta,
        )
        steps, inner_state = inner.update(grads, state.inner_state, state.theta, **extra_args)
        theta = optax.apply_updates(state.theta, steps)
        new = count, state.base, theta, inner_state, params
        like = params, state.base, state.theta, state.inner_state
        updates, base, theta, inner_state = on_auto_axes(join, *new, like=like)
        return updates, ReparameterizeState(
            reparameterize_count=count, base=base, theta=theta, inner_state=inner_state
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
