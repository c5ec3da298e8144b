"""Explicit meshes: linear algebra on them as on Auto ones."""

from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def _sharding(x):
    return jax.typeof(x).sharding


def _explicit_mesh(tree):
    meshes = [_sharding(x).mesh for x in jax.tree.leaves(tree)]
    return next((m for m in meshes if AxisType.Explicit in m.axis_types), None)


def on_auto_axes(f, *args, like=None):
    """f(*args) where the compiler chooses the placement inside, also under an Explicit mesh.

    There a product, reshape, QR or solve of a sharded array is an error unless its result's
    sharding is spelt out. On Auto meshes and single devices this is f(*args).

    Args:
      f: arrays to arrays.
      *args: its arguments, pytrees of arrays.
      like: arrays whose shardings the results get, or `PartitionSpec`s, a tree or a prefix of the
        tree that f returns; None: replicated.
    """
    mesh = _explicit_mesh(args)
    if mesh is None:
        return f(*args)

    def out(x):
        return NamedSharding(mesh, x) if isinstance(x, PartitionSpec) else _sharding(x)

    like = PartitionSpec() if like is None else like
    return jax.sharding.auto_axes(f, out_sharding=jax.tree.map(out, like))(*args)


def batch_specs(views, params: Any, f) -> Any:
    """For f(params), trees of pytrees of arrays that lead with the batch axes of the leaves of
    `params` (see `Views`): tree of the `PartitionSpec`s that leave each stack of matrices where
    its parameter lies. None where there is no Explicit mesh."""
    if _explicit_mesh(params) is None:
        return None

    def of(axes, param, subtree):
        spec = [*_sharding(param).spec]
        spec += [None] * (param.ndim - len(spec))
        if axes.blocks > 1:  # An axis more, for the blocks, which no device divides.
            last = (axes.output if isinstance(axes.output, int) else axes.output[-1]) % param.ndim
            spec.insert(last, None)
        leading = [spec[a] for a in axes.batch(param.shape)]
        return jax.tree.map(lambda _: PartitionSpec(*leading), subtree)

    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    leaves = views.treedef.flatten_up_to(params)

    def specs(tree):
        subtrees = views.treedef.flatten_up_to(tree)
        return views.treedef.unflatten(map(of, views.axes, leaves, subtrees))

    return tuple(specs(tree) for tree in jax.eval_shape(f, shapes))
