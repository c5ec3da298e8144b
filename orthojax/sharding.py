"""Explicit meshes: linear algebra on them as on Auto ones."""

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def _sharding(x):
    return jax.typeof(x).sharding


def on_auto_axes(f, *args, like=None):
    """f(*args) where the compiler chooses the placement inside, also under an Explicit mesh.

    There a product, reshape, QR or solve of a sharded array is an error unless its result's
    sharding is spelt out. On Auto meshes and single devices this is f(*args).

    Args:
      f: arrays to arrays.
      *args: its arguments, pytrees of arrays.
      like: arrays, a tree or a prefix of the tree that f returns, whose shardings the results get;
        None: replicated.
    """
    meshes = [_sharding(x).mesh for x in jax.tree.leaves(args)]
    mesh = next((m for m in meshes if AxisType.Explicit in m.axis_types), None)
    if mesh is None:
        return f(*args)
    replicated = NamedSharding(mesh, PartitionSpec())
    out = replicated if like is None else jax.tree.map(_sharding, like)
    return jax.sharding.auto_axes(f, out_sharding=out)(*args)
