"""Many arrays of few shapes computed as few batches, each device a part of them if asked to."""

import contextlib
import contextvars
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.xla_metadata import set_xla_metadata
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# A context and not an argument: between the transformation and its batches lie links of others.
_SPLIT: contextvars.ContextVar["Split | None"] = contextvars.ContextVar("split", default=None)


class Split(NamedTuple):
    """Over which devices the matrices of a batch are divided.

    Attributes:
      mesh: of Auto axes.
      axes: names of its axes.
      least: numbers in the smallest matrix that is worth it.
    """

    mesh: Mesh
    axes: tuple[str, ...]
    least: int

    def axes_for(self, count: int, size: int) -> tuple[str, ...]:
        """The axes over which to divide `count` matrices of `size` numbers, as many as it takes
        for each matrix to have a device of its own."""
        chosen, devices = (), 1
        for axis in self.axes if size >= self.least else ():
            if self.mesh.shape[axis] > 1 and devices < count:
                chosen, devices = (*chosen, axis), devices * self.mesh.shape[axis]
        return chosen

    def placed(self, tree: Any, axes: tuple[str, ...]) -> Any:
        """`tree` of arrays with their leading axis over `axes`."""
        sharding = NamedSharding(self.mesh, PartitionSpec(axes))
        return jax.lax.with_sharding_constraint(tree, sharding)


@contextlib.contextmanager
def split_by(split: Split | None):
    """Divides all batches that are traced inside."""
    token = _SPLIT.set(split)
    try:
        yield
    finally:
        _SPLIT.reset(token)


def _computed(f, row, batch):
    """f(*row); where batches are divided, each device computes its own matrices."""
    split = _SPLIT.get()
    if split is None:
        return f(*row)
    arrays = jax.tree.leaves(row)
    count, lead = math.prod(batch), len(batch)
    size = max((math.prod(x.shape[lead:]) for x in arrays), default=0)
    axes = split.axes_for(count, size)
    if not axes:
        return f(*row)
    devices = math.prod(split.mesh.shape[axis] for axis in axes)

    def spread(x):
        x = x.reshape(count, *x.shape[lead:])
        again = -(-count // devices) * devices - count
        # Some twice, by devices that would wait otherwise: zeros have no inverse.
        return jnp.concatenate([x] * (1 + again // count) + [x[: again % count]])

    out = f(*split.placed(jax.tree.map(spread, row), axes))
    gather = lambda x: x[:count].reshape(*batch, *x.shape[1:])
    return jax.tree.map(gather, split.placed(out, axes))


@functools.partial(jax.jit, static_argnums=0)
def _numbers(values):
    return tuple(map(np.uint32, values))


def _slices_by_number(sizes, x):
    """`jax.lax.split` for XLA on CPU, which compiles each slice at a known place, and what follows,
    to a kernel of its own (20 ms), but compiles one for all that read their place from memory.
    """
    # Inlined, the numbers would be constants, and the places known again.
    with set_xla_metadata(inlineable="false"):
        starts = _numbers(tuple(itertools.accumulate(sizes[:-1], initial=0)))
    return [jax.lax.dynamic_slice_in_dim(x, s, n) for s, n in zip(starts, sizes, strict=True)]


def _leads(batches):
    # Equal batches lie along a new axis, so that stacks sharded over their layers stay as they lie.
    equal = len(set(batches)) == 1
    return [(1, *batch) if equal else (math.prod(batch),) for batch in batches]


# Traced and lowered once for all trees of the same leaves.
@functools.partial(jax.jit, static_argnums=0)
def _join(batches, arrays):
    """Arrays that lead with their batch axes, of the sizes in `batches`, as one batch."""
    rows = zip(_leads(batches), batches, arrays, strict=True)
    return jnp.concatenate([x.reshape(*lead, *x.shape[len(b) :]) for lead, b, x in rows])


@functools.partial(jax.jit, static_argnums=0)
def _part(batches, joined):
    """Inverse of `_join`."""
    leads = _leads(batches)
    sizes = tuple(lead[0] for lead in leads)
    parts = jax.lax.platform_dependent(
        joined,
        cpu=functools.partial(_slices_by_number, sizes),
        default=lambda x: list(jax.lax.split(x, sizes)),
    )
    rest = joined.shape[len(leads[0]) :]
    return [x.reshape(*b, *rest) for b, x in zip(batches, parts, strict=True)]


def in_batches(f: Callable[..., Any], rows: Sequence[Any], batches: Sequence[tuple]) -> list[Any]:
    """[f(*row) for row in rows], where all rows of one matrix shape are computed as one batch.

    A row is a tuple of pytrees of arrays that lead with its batch axes, of the sizes in `batches`.
    """
    groups: dict[Any, list[int]] = {}
    for i, (row, batch) in enumerate(zip(rows, batches, strict=True)):
        leaves, structure = jax.tree.flatten(row)
        key = structure, tuple((x.shape[len(batch) :], x.dtype) for x in leaves)
        groups.setdefault(key, []).append(i)

    results: list[Any] = [None] * len(rows)
    for members in groups.values():
        if len(members) == 1:  # Nothing to join: a sharded stack of layers stays as it lies.
            row, batch = rows[members[0]], batches[members[0]]
            results[members[0]] = _computed(f, row, batch)
            continue
        shared = tuple(tuple(batches[i]) for i in members)
        joined = jax.tree.map(lambda *xs, b=shared: _join(b, xs), *(rows[i] for i in members))
        lead = len(_leads(shared)[0])
        batch = jax.tree.leaves(joined)[0].shape[:lead]
        out, structure = jax.tree.flatten(_computed(f, joined, batch))
        columns = [_part(shared, x) for x in out]
        for i, *parts in zip(members, *columns, strict=True):
            results[i] = structure.unflatten(parts)
    return results
