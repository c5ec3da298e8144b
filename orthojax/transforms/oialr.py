"""OIALR: full rank first, then a low-rank core between orthogonal bases that have become stable."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from orthojax.linalg import matmul
from orthojax.maps import low_rank
from orthojax.matrices import MatrixAxes, Rules, Views
from orthojax.sharding import on_auto_axes
from orthojax.transforms.reparameterize import (
    ReparameterizeState,
    reparameterize,
    transported,
)
from orthojax.transforms.riemannian import require_params


class OIALRState(NamedTuple):
    """State of `oialr`."""

    oialr_count: jax.Array  # [] int32, number of updates
    full_rank_state: optax.OptState  # of `inner` for the weights as matrices (*batch, n, p)
    low_rank_state: ReparameterizeState  # zeros until `delay`


def _to_core(_, new, m, squared):
    """Moments of W [n, p] as those of the core [p, p]."""
    left, right = new.u.mT, new.v
    if squared:
        left, right = left**2, right**2
    return matmul(matmul(left, m), right)


def oialr(
    inner: optax.GradientTransformation,
    *,
    delay: int,
    every: int,
    cutoff: float = 0.1,
    axes: MatrixAxes | Rules | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Orthogonality-informed adaptive low rank (Coquelin et al. 2024, arXiv:2401.08505), latent.

    For `delay` updates `inner` trains the weights at full rank. Then W = U S V' with the singular
    bases of W frozen and the full core S trained; every `every` updates the bases turn to the
    singular vectors of the current W, and singular values below `cutoff` times the largest go.
    The rank never rises. It is `reparameterize(inner, low_rank(cutoff), rebase_every=every)` after
    a delay, and emits the absolute update, as that does.

    The model is unmodified and its weights stay dense, so neither memory nor time is saved: this is
    for research on any model. Unlike the authors' code it rotates the moments of `inner` with the
    bases and does not reset them, so that without a cutoff and for square W, SGD with momentum
    does not notice that anything happened. The SVD is in the program of the step, under a
    `lax.cond`; under `vmap` it runs in every step.

    Args:
      inner: any Optax optimizer, learning rate included. Optimizers that are not elementwise, such
        as adafactor, see matrices whose rows and columns beyond the rank are zero.
      delay: number of updates at full rank, 0 or more; the paper takes about a third of all.
      every: number of updates between changes of the bases.
      cutoff: relative to the largest singular value, in [0, 1).
      axes: as in `reparameterize`.

    >>> import jax.numpy as jnp, optax, orthojax
    >>> tx = orthojax.oialr(optax.adamw(1e-3), delay=1000, every=200, cutoff=0.1)
    >>> state = tx.init({"kernel": jnp.ones((8, 4))})
    """
    if isinstance(delay, int) and delay < 0:
        raise ValueError(f"`delay` is a number of updates, 0 or more, got {delay}.")
    if isinstance(every, int) and every < 1:
        raise ValueError(f"`every` is a number of updates of at least 1, got {every}.")
    engine = reparameterize(inner, low_rank(cutoff), every, axes)
    inner = optax.with_extra_args_support(inner)

    def init_fn(params):
        views = Views.of(params, axes)
        matrices = on_auto_axes(views.matrices, params)
        shapes = jax.eval_shape(engine.init, params)
        return OIALRState(
            oialr_count=jnp.zeros([], jnp.int32),
            full_rank_state=inner.init(matrices),
            low_rank_state=jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes),
        )

    def update_fn(updates, state, params=None, **extra_args):
        require_params(params, "oialr")
        views = Views.of(params, axes)

        def full_rank(updates, state, params):
            grads, weights = views.matrices(updates), views.matrices(params)
            steps, inner_state = inner.update(grads, state.full_rank_state, weights, **extra_args)
            return views.unview(steps, params), state._replace(full_rank_state=inner_state)

        def converted(state, params):
            new = engine.init(params)
            moments = transported(inner, state.full_rank_state, new.base, new.base, _to_core)
            return new._replace(inner_state=moments)

        def low_rank_(updates, state, params):
            low = jax.lax.cond(
                state.oialr_count == delay,
                converted,
                lambda state, _: state.low_rank_state,
                *(state, params),
            )
            steps, low = engine.update(updates, low, params, **extra_args)
            return steps, state._replace(low_rank_state=low)

        def step(updates, state, params):
            return jax.lax.cond(
                state.oialr_count < delay, full_rank, low_rank_, updates, state, params
            )

        updates, new = on_auto_axes(step, updates, state, params, like=(params, state))
        return updates, new._replace(oialr_count=optax.safe_increment(state.oialr_count))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
