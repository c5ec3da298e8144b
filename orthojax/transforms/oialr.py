"""OIALR on unmodified models: weights stay dense, their updates are those of a low-rank core."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from orthojax import bases as core
from orthojax.bases import Bases
from orthojax.linalg import at_least_float32, matmul
from orthojax.low_rank_training import OIALR
from orthojax.matrices import named, replaced
from orthojax.moments import map_moments, require_elementwise
from orthojax.sharding import on_auto_axes
from orthojax.transforms.riemannian import require_params


class OIALRState(NamedTuple):
    """State of `oialr`."""

    oialr_count: jax.Array  # [] int32, number of updates
    bases: Bases  # {path of the kernel: Basis}
    cores: dict[str, jax.Array]  # {path: core}, in the first p of n rows if `svd="in_step"`
    inner_state: optax.OptState  # of `inner` for params with cores in the place of kernels


class OIALRTransformation(optax.GradientTransformationExtraArgs):
    """An Optax transformation with `refresh`: (params, state) -> (params, state)."""

    refresh: Callable[[chex.ArrayTree, OIALRState], tuple[chex.ArrayTree, OIALRState]]

    def __new__(cls, init, update, refresh):
        self = super().__new__(cls, init, update)
        self.refresh = refresh
        return self


def oialr(
    inner: optax.GradientTransformation, *, svd: str = "in_step", **options: Any
) -> OIALRTransformation:
    """Orthogonality-informed adaptive low rank (Coquelin et al. 2024, arXiv:2401.08505), latent.

    For `delay` updates `inner` trains the params at full rank. Then each kernel is W = U S V' with
    frozen bases, and `inner` trains the core S beside what else there is (biases, norms); every
    `every` updates the bases turn to the singular vectors of the current W and small singular
    values go. Emits the absolute update, so that rounding never leaves the span of the bases.

    The model is unmodified and its weights stay dense, so that neither memory of weights nor time
    is saved: this face is for research on any model. To save, train in factors: `OIALR.refresh`
    and `bind`, on the same trajectory. The optimizer is the whole chain: weight decay in `inner`
    decays S, which is decay of W inside the span.

    Args:
      inner: any Optax optimizer, learning rate included, that keeps arrays of the parameter's
        shape only (not adafactor).
      svd: "in_step", for loops that know nothing of it: the SVDs are in the program of the update,
        under a `lax.cond`, and the state has static shapes, the cores padded to those of the
        kernels. (Under `vmap` they run in every update.) "outside": no SVD in the program; call
        `params, state = tx.refresh(params, state)` where `OIALR.is_due`, after the update was
        applied, or nothing ever changes; the state then shrinks to r x r.
      **options: those of `OIALR`: delay, every, cutoff, rules, ... With `delay=0` and "in_step" the
        first gradient is still taken at the weights before truncation.

    >>> import jax.numpy as jnp, optax, orthojax
    >>> tx = orthojax.oialr(optax.adamw(1e-3), delay=1000, every=200, cutoff=0.1)
    >>> state = tx.init({"kernel": jnp.ones((8, 4)), "bias": jnp.zeros(4)})
    """
    if svd not in ("in_step", "outside"):
        raise ValueError(f'`svd` is "in_step" or "outside", got {svd!r}.')
    method = OIALR(**options)
    inner = optax.with_extra_args_support(inner)
    init_fn, *others = (_outside if svd == "outside" else _in_step)(method, inner)

    def init(params):
        if not jax.tree.leaves(params):
            # So `optax.tree.map_params` asks for the places of params: not in these two leaves.
            return OIALRState(0, 0, 0, inner.init(params))
        return init_fn(params)

    return OIALRTransformation(init, *others)


def _pulled_back(bases, grads):
    leaves = named(grads)
    return {
        name: core.pull_back(basis, basis.axes.view(at_least_float32(leaves[name])))
        for name, basis in bases.items()
    }


def _moved(params, weights, axes):
    """{name: the update that takes the leaf of `params` to the matrix of `weights`}."""
    leaves = named(params)
    return {
        # Rounded first: the difference of two neighbours in a low precision is exact in it.
        name: axes[name].unview(w, leaves[name].shape).astype(leaves[name].dtype) - leaves[name]
        for name, w in weights.items()
    }


def _basis_gradients(bases, cores, grads):
    """{name: (dL/dU, dL/dV)} from dense gradients, as `orthojax.basis_gradients` has them."""
    leaves, found = named(grads), {}
    for name, basis in bases.items():
        g = basis.axes.view(at_least_float32(leaves[name]))
        u_side, v_side = matmul(g, basis.v), matmul(g.mT, basis.u)
        found[name] = matmul(u_side, cores[name].mT), matmul(v_side, cores[name])
    return found


def _outside(method, inner):
    if method.grow:
        raise ValueError('`grow` in `oialr` needs `svd="in_step"`, which has the gradient at hand.')

    def init_fn(params):
        method.select(params)  # Raises for rules that do not fit.
        require_elementwise(inner, params)
        return OIALRState(jnp.zeros([], jnp.int32), {}, {}, inner.init(params))

    def update_fn(updates, state, params=None, **extra_args):
        require_params(params, "oialr")
        bases = state.bases  # {} before the conversion: another program.

        def step(updates, state, params):
            grads = replaced(updates, _pulled_back(bases, updates))
            trained = replaced(params, state.cores)
            steps, inner_state = inner.update(grads, state.inner_state, trained, **extra_args)
            leaves = named(steps)
            cores = {name: x + leaves[name] for name, x in state.cores.items()}
            weights = {name: core.compose(bases[name], x) for name, x in cores.items()}
            axes = {name: basis.axes for name, basis in bases.items()}
            steps = replaced(steps, _moved(params, weights, axes))
            return steps, state._replace(cores=cores, inner_state=inner_state)

        updates, new = on_auto_axes(step, updates, state, params, like=(params, state))
        return updates, new._replace(oialr_count=optax.safe_increment(state.oialr_count))

    def refresh(params, state):
        step = int(state.oialr_count)
        trained, bases, inner_state = method.refresh(
            step, replaced(params, state.cores), state.bases, state.inner_state, inner
        )
        cores = {name: leaf for name, leaf in named(trained).items() if name in bases}
        weights = {name: core.compose(bases[name], x) for name, x in cores.items()}
        moves = _moved(params, weights, {name: basis.axes for name, basis in bases.items()})
        leaves = named(params)
        params = replaced(params, {name: leaves[name] + move for name, move in moves.items()})
        return params, OIALRState(state.oialr_count, bases, cores, inner_state)

    return init_fn, update_fn, refresh


def _padded(cores, rows):
    """Cores [*batch, p, p] as the first of n rows."""
    return {
        name: jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, rows[name] - x.shape[-2]), (0, 0)])
        for name, x in cores.items()
    }


def _in_step(method, inner):
    def matrices(params):
        leaves = named(params)
        return {
            name: axes.view(at_least_float32(leaves[name]))
            for name, axes in method.select(params).items()
        }

    def shapes(params):
        leaves = named(params)
        return {
            name: (axes, tuple(leaves[name].shape)) for name, axes in method.select(params).items()
        }

    def converted(params, kernels, inner_state):
        bases, cores = core.convert(method, kernels, shapes(params))
        rows = {name: w.shape[-2] for name, w in kernels.items()}

        def move(m, squared, basis):
            moved = core.moment_of_core(m, squared, basis, viewed=True)
            if moved is m:
                return m
            return _padded({"": moved}, {"": basis.u.shape[-2]})[""].astype(m.dtype)

        inner_state = map_moments(inner, move, inner_state, core.spread(params, bases))
        return bases, _padded(cores, rows), inner_state

    def turned(params, count, bases, padded, inner_state, before, grads):
        cores = {name: x[..., : bases[name].columns, :] for name, x in padded.items()}
        grads = _basis_gradients(bases, before, grads) if method.grow else None
        new, cores, _ = core.turn(method, method.changes(count), bases, cores, grads)

        def move(m, squared, old, new):
            if isinstance(old, optax.MaskedNode) or m.ndim == 0:
                return m
            moved = core.turned_moment(m[..., : old.columns, :], squared, old, new)
            return _padded({"": moved}, {"": m.shape[-2]})[""].astype(m.dtype)

        trees = core.spread(params, bases), core.spread(params, new)
        inner_state = map_moments(inner, move, inner_state, *trees)
        return new, _padded(cores, {n: x.shape[-2] for n, x in padded.items()}), inner_state

    def init_fn(params):
        require_elementwise(inner, params)
        kernels = on_auto_axes(matrices, params)
        inner_state = inner.init(replaced(params, kernels))
        if method.delay_steps == 0:
            start = on_auto_axes(converted, params, kernels, inner_state)
        else:
            start = jax.tree.map(
                lambda x: jnp.zeros(x.shape, x.dtype),
                jax.eval_shape(converted, params, kernels, inner_state)[:2],
            )
            start = *start, inner_state
        return OIALRState(jnp.zeros([], jnp.int32), *start)

    def update_fn(updates, state, params=None, **extra_args):
        require_params(params, "oialr")
        delay = method.delay_steps

        def step(updates, state, params):
            count, bases = optax.safe_increment(state.oialr_count), state.bases
            is_low = count > delay
            g = matrices(updates)
            rows = {name: x.shape[-2] for name, x in g.items()}
            pulled = _padded({name: core.pull_back(bases[name], g[name]) for name in g}, rows)
            before = {name: x[..., : bases[name].columns, :] for name, x in state.cores.items()}
            theta, kernels = state.cores, matrices(params)
            choose = functools.partial(jax.tree.map, functools.partial(jnp.where, is_low))
            theta, g = choose((theta, pulled), (kernels, g))

            steps, inner_state = inner.update(
                replaced(updates, g), state.inner_state, replaced(params, theta), **extra_args
            )
            leaves = named(steps)
            theta = {name: x + leaves[name] for name, x in theta.items()}

            def changed(bases, theta, inner_state):
                return jax.lax.cond(
                    count == delay,
                    lambda *old: converted(params, theta, inner_state),
                    lambda *old: turned(params, count, *old, before, updates),
                    *(bases, theta, inner_state),
                )

            due = (count >= delay) & ((count - delay) % method.every == 0)
            bases, theta, inner_state = jax.lax.cond(
                due, changed, lambda *same: same, bases, theta, inner_state
            )
            low = {
                name: core.compose(bases[name], x[..., : bases[name].columns, :])
                for name, x in theta.items()
            }
            weights = jax.tree.map(functools.partial(jnp.where, count >= delay), low, theta)
            axes = {name: basis.axes for name, basis in bases.items()}
            steps = replaced(steps, _moved(params, weights, axes))
            return steps, OIALRState(count, bases, theta, inner_state)

        return on_auto_axes(step, updates, state, params, like=(params, state))

    def refresh(params, state):
        """Nothing to do: the update does it."""
        return params, state

    return init_fn, update_fn, refresh
