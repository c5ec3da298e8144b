"""A frozen model and what is trained of it."""

import dataclasses
import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp

from orthojax.adapters.families import Adapter
from orthojax.linalg import at_least_float32
from orthojax.matrices import MatrixAxes, Rules, axes_of, first_match, map_named, named


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "constants"],
    meta_fields=["adapters"],
)
@dataclasses.dataclass(frozen=True)
class Frozen:
    """All that is not trained: a pytree, to be passed to compiled functions as an argument."""

    params: chex.ArrayTree  # as they were given
    constants: dict[str, chex.ArrayTree]  # {path: those of the adapter}
    adapters: tuple[tuple[str, Adapter | None, MatrixAxes | None], ...]  # path, None: "free", axes


Theta = dict[str, chex.ArrayTree]


def _split_rule(value, name, leaf) -> tuple[Any, MatrixAxes | None]:
    """(Adapter, "free" or "frozen", axes) of a rule's value."""
    if isinstance(value, str) and value in ("free", "frozen"):
        return value, None
    adapter, axes = value, None
    if isinstance(value, tuple) and not isinstance(value, Adapter) and len(value) == 2:
        adapter, axes = value
    if not isinstance(adapter, Adapter) or not isinstance(axes, MatrixAxes | None):
        raise ValueError(
            'The value of a rule is "free", "frozen", an adapter such as '
            "`orthojax.adapters.oft(8)`, or (adapter, MatrixAxes); got "
            f"{value!r} for parameter {name!r}."
        )
    if leaf.ndim < 2:
        raise ValueError(
            f"Parameter {name!r} of shape {tuple(leaf.shape)} is no matrix to adapt: give it a "
            '"free" or "frozen" rule before.'
        )
    axes = axes_of(name, leaf, axes)
    # Hashable, for the metadata of a pytree.
    hashable = {k: a if isinstance(a, int) else tuple(a) for k, a in axes._asdict().items()}
    return adapter, MatrixAxes(**hashable)


def init(key: jax.Array, params: chex.ArrayTree, rules: Rules) -> tuple[Frozen, Theta]:
    """What stays and what is trained.

    Args:
      key: of the random starts, different for each parameter.
      params: of the model to adapt: a Linen dict, an `nnx.State`, any tree of arrays.
      rules: (regular expression of a whole parameter path such as "block/dense/kernel", value)
        pairs; the first match wins, and a parameter without one is an error. Values: an `Adapter`,
        for kernels in the shapes of Flax; (adapter, `MatrixAxes`) for others; "free" to train a
        parameter as it is, e.g. a new head; "frozen".

    Returns:
      frozen: a `Frozen`.
      theta: {path: array or dict of arrays}, at least float32, for any Optax optimizer.

    Raises:
      ValueError: a parameter without a rule, a value that is none of these, a kernel that its
        adapter does not fit, or nothing to train.

    >>> import jax, jax.numpy as jnp, optax, orthojax
    >>> params = {"body": {"kernel": jnp.ones((8, 4))}, "head": {"kernel": jnp.ones((4, 2))}}
    >>> rules = [("head/.*", "free"), (".*kernel", orthojax.adapters.oft(block=4))]
    >>> frozen, theta = orthojax.adapters.init(jax.random.key(0), params, rules)
    >>> {name: x.shape for name, x in theta.items()}
    {'body/kernel': (1, 2, 6), 'head/kernel': (4, 2)}
    >>> model = lambda params: jnp.arange(8.0) @ params["body"]["kernel"] @ params["head"]["kernel"]
    >>> loss = lambda theta, frozen: jnp.sum(model(orthojax.adapters.merge(frozen, theta)) ** 2)
    >>> grads = jax.jit(jax.grad(loss))(theta, frozen)
    >>> updates, _ = optax.sgd(1e-6).update(grads, optax.sgd(1e-6).init(theta))
    >>> bool(loss(optax.apply_updates(theta, updates), frozen) < loss(theta, frozen))
    True
    """
    theta: Theta = {}
    constants, adapters = {}, []
    for i, (name, leaf) in enumerate(named(params).items()):
        adapter, axes = _split_rule(first_match(rules, name, leaf), name, leaf)
        if adapter == "frozen":
            continue
        if adapter == "free":
            # A copy: params and theta may both be donated.
            theta[name] = jnp.array(at_least_float32(jnp.asarray(leaf)))
            adapters.append((name, None, None))
            continue
        w = axes.matrix(at_least_float32(jnp.asarray(leaf)))
        try:
            constants[name], theta[name] = adapter.init(jax.random.fold_in(key, i), w)
        except ValueError as error:
            raise ValueError(f"Parameter {name!r} of shape {tuple(leaf.shape)}: {error}") from error
        adapters.append((name, adapter, axes))
    if not theta:
        raise ValueError(
            f'All parameters are "frozen": nothing is left to train of {list(named(params))}.'
        )
    return Frozen(params, constants, tuple(adapters)), theta


def merge(frozen: Frozen, theta: Theta) -> chex.ArrayTree:
    """The params of the adapted model, in the structure, shapes and dtypes of the frozen one's.

    Pure and differentiable in `theta`: `jax.grad` of a loss of it trains the adapters, under `jit`,
    `vmap` (over many theta of one model), `scan` and gradient checkpoints. Called once after
    training it is the model to deploy, which costs what the frozen one did. A training step costs
    that of full fine-tuning, since dL/dW is made, and the `forward` and pull-back of the adapters,
    once a step and not once an example.
    """
    adapters = {name: (adapter, axes) for name, adapter, axes in frozen.adapters}
    if adapters.keys() != theta.keys():
        raise ValueError(
            f"`theta` is of parameters {sorted(theta)}, `frozen` adapts {sorted(adapters)}: take "
            "both from one call of `orthojax.adapters.init`."
        )

    def one(name, leaf):
        if name not in adapters:
            return leaf
        adapter, axes = adapters[name]
        leaf = jnp.asarray(leaf)
        if adapter is None:
            return theta[name].astype(leaf.dtype)
        w = axes.matrix(at_least_float32(leaf))
        w = adapter.forward(w, frozen.constants[name], theta[name])
        return axes.unmatrix(w, leaf.shape).astype(leaf.dtype)

    return map_named(one, frozen.params)
