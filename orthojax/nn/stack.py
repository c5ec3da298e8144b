"""Depth by scan: layers of one kind, one after another, compiled once."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx


def _products_and_masks(primitive, *_, **__):
    """Masks take a byte; with that of a ReLU its input need not be kept."""
    return primitive.name in ("dot_general", "conv_general_dilated", "gt", "ge", "lt", "le")


# {what is computed again: which results `jax.checkpoint` keeps}
REMATS = {
    "none": None,
    "elementwise": _products_and_masks,
    "all": jax.checkpoint_policies.nothing_saveable,
}


def _call(layer, x):
    """layer(x); `ValueError` unless scan can pass that on to the next layer."""
    y = layer(x)
    kinds = lambda tree: jax.tree.map(lambda a: f"{jnp.result_type(a)}{list(jnp.shape(a))}", tree)
    if kinds(y) != kinds(x):
        raise ValueError(
            f"a layer must return an array of x's shape and dtype, {kinds(x)}, got {kinds(y)}: "
            "make widths equal, or cast x to the dtype in which the layers compute."
        )
    return y


def _check_index(index, depth):
    if not -depth <= index < depth:
        raise IndexError(f"`index` of {depth} layers is from {-depth} to {depth - 1}, got {index}.")


class Stack(nnx.Module):
    """x -> layer_L(... layer_1(x)): `depth` layers of one structure, each with its own weights.

    The state of `layers` is that of one layer with a leading axis [depth, ...], e.g.
    `layers/kernel` [depth, in, out], which `MatrixAxes(-2, -1)` sees as `depth` matrices. The
    compiled program holds one layer, whatever the depth.

    >>> from flax import nnx
    >>> import jax.numpy as jnp
    >>> stack = Stack(lambda rngs: nnx.Linear(4, 4, rngs=rngs), 1000, rngs=nnx.Rngs(0))
    >>> stack.layers.kernel.shape, stack(jnp.ones((2, 4))).shape
    ((1000, 4, 4), (2, 4))
    >>> stack.layer(7)(jnp.ones((2, 4))).shape
    (2, 4)
    """

    def __init__(
        self,
        make: Callable[..., nnx.Module],
        depth: int,
        *per_layer,
        rngs: nnx.Rngs,
        remat: str = "elementwise",
        unroll: int = 1,
    ):
        """
        Args:
          make: (rngs, *constants of the layer) -> layer, a module that maps x to an array of the
            same shape and dtype.
          depth: number of layers.
          *per_layer: what differs between layers but for their random numbers, e.g. initial
            weights or gains: pytrees of arrays [depth, ...].
          rngs: split between the layers.
          remat: what is computed again for the gradient instead of being kept, one of `REMATS`.
            "elementwise": all but products and convolutions; 200 layers of batch normalization and
            tanh take less than half the time so, on a CPU, and no network more. "all": memory for
            one array a layer, for a third more time.
          unroll: layers in an iteration of the scan.

        Raises:
          ValueError: `depth` is not positive, something of `per_layer` has another length, or
            `remat` is unknown.
        """
        if depth < 1:
            raise ValueError(f"`depth` must be at least 1, got {depth}.")
        for x in jax.tree.leaves(per_layer):
            if not x.shape or x.shape[0] != depth:
                raise ValueError(
                    f"`per_layer` needs a leading axis of depth={depth}, got shape {x.shape}."
                )
        if remat not in REMATS:
            raise ValueError(f"`remat` is one of {', '.join(REMATS)}, got {remat!r}.")
        self.depth, self.remat, self.unroll = depth, remat, unroll
        create = nnx.vmap(make, in_axes=0, out_axes=0)
        self.layers = nnx.split_rngs(splits=depth)(create)(rngs, *per_layer)

    def __call__(self, x):
        return self._scan(x, lambda y: None)[0]

    def outputs(self, x):
        """All layers' outputs [depth, *x.shape], the last of which is `self(x)`."""
        return self._scan(x, lambda y: y)[1]

    def layer(self, index: int) -> nnx.Module:
        """A copy of one layer, to be used alone; -1 is the last. `IndexError` if there is none."""
        _check_index(index, self.depth)
        graph, state = nnx.split(self.layers)
        return nnx.merge(graph, jax.tree.map(lambda x: x[index], state))

    def _scan(self, x, keep):
        graph, params, others = nnx.split(self.layers, nnx.Param, ...)

        def step(x, state):
            layer = nnx.merge(graph, *state, copy=True)
            y = _call(layer, x)
            # Scan would write out again what no layer changes, such as bases.
            arrays = lambda variable: [*map(id, jax.tree.leaves(variable))]
            before = {path: arrays(variable) for path, variable in nnx.to_flat_state(state[1])}
            changed = lambda path, variable: arrays(variable) != before.get(path)
            return y, (keep(y), nnx.state(layer, nnx.All(nnx.Not(nnx.Param), changed)))

        if self.remat != "none":
            step = jax.checkpoint(step, policy=REMATS[self.remat], prevent_cse=False)
        x, (kept, others) = jax.lax.scan(step, x, (params, others), unroll=self.unroll)
        nnx.update(self.layers, others)  # Statistics and counters of the layers.
        return x, kept


class Repeat(nnx.Module):
    """x -> layer(... layer(x)): one layer, with one set of weights, `depth` times.

    Statistics and counters of the layer go on from one pass to the next.
    """

    def __init__(self, layer: nnx.Module, depth: int):
        if depth < 1:
            raise ValueError(f"`depth` must be at least 1, got {depth}.")
        self.layers, self.depth = layer, depth

    def __call__(self, x):
        return self._scan(x, lambda y: None)[0]

    def outputs(self, x):
        """The outputs of all passes [depth, *x.shape]."""
        return self._scan(x, lambda y: y)[1]

    def layer(self, index: int) -> nnx.Module:
        """A copy of the layer, the same for each index from -depth to depth - 1."""
        _check_index(index, self.depth)
        return nnx.clone(self.layers)

    def _scan(self, x, keep):
        graph, params, others = nnx.split(self.layers, nnx.Param, ...)

        def step(carry, _):
            x, others = carry
            layer = nnx.merge(graph, params, others, copy=True)
            y = _call(layer, x)
            return (y, nnx.state(layer, nnx.Not(nnx.Param))), keep(y)

        (x, others), kept = jax.lax.scan(step, (x, others), length=self.depth)
        nnx.update(self.layers, others)
        return x, kept
