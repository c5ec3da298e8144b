"""Where params, and all that a transformation keeps for them, lie on a mesh."""

import math
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from orthojax import matrices

# Below this, every device keeps its own copy: a message would cost more than it saves.
LEAST_SPLIT = 1024


def shardings(
    tree: Any,
    params: Any,
    mesh: Mesh | AbstractMesh,
    rules: matrices.Rules = ((".*", "auto"),),
) -> Any:
    """Tree of the `NamedSharding` of each array of `tree`: params, gradients, or a state made from
    `params`, such as moments, base and theta of `reparameterize`, cores and bases of OIALR.

    An array belongs to the parameter whose path its own path contains, and goes by that
    parameter's rule. Arrays of no parameter, such as counts, are on each device.

    >>> mesh = jax.sharding.AbstractMesh((4, 2), ("fsdp", "tensor"))
    >>> params = {"dense": {"kernel": jax.ShapeDtypeStruct((64, 32), "float32")}}
    >>> print(shardings(params, params, mesh)["dense"]["kernel"].spec)
    P('fsdp', 'tensor')

    Args:
      tree: arrays or `jax.ShapeDtypeStruct`s.
      params: those that `tree` was made from; only paths and shapes are read.
      mesh: any of its axes may be called fsdp or tensor.
      rules: (regular expression of a parameter's whole path, label), the first match counts. A
        label is "replicated"; "auto": matrices of 1024 numbers or more have their last axis over
        "tensor" and another one over "fsdp", that of the stack if there is one, otherwise the
        longer; an axis that the devices do not divide stays whole; or a tuple with the name of a
        mesh axis or None for each axis of the parameter. Arrays that a tuple does not fit, like
        the factors of a matrix, go by "auto".

    Returns:
      what `jax.device_put`, `out_shardings` of `jax.jit` or `jax.lax.with_sharding_constraint`
      take.

    Raises:
      ValueError: no rule for a parameter, an unknown label, or a tuple that does not fit the
        parameter itself.
    """
    shapes, specs = {}, {}
    for name, leaf in matrices.named(params).items():
        shapes[name] = tuple(leaf.shape)
        specs[name] = _checked(matrices.first_match(rules, name, leaf), name, leaf.shape, mesh)

    def place(path, leaf):
        name = _owner(matrices.path_name(path).split("/"), shapes)
        spec = PartitionSpec()
        if name is not None and specs[name] != "replicated":
            is_like = specs[name] != "auto" and tuple(leaf.shape) == shapes[name]
            spec = specs[name] if is_like else _automatic(leaf.shape, mesh)
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(place, tree)


def _checked(label, name, shape, mesh):
    """`label`, a tuple as `PartitionSpec`."""
    if label in ("auto", "replicated"):
        return label
    if not isinstance(label, tuple):
        raise ValueError(
            f'The rule of parameter {name!r} is {label!r}; it is "auto", "replicated" or a tuple '
            f"of {', '.join(map(repr, mesh.axis_names))} and None, one for each axis."
        )
    sizes = [math.prod(mesh.shape.get(a, 0) for a in _names(axes)) for axes in label]
    if len(label) > len(shape) or any(
        not k or length % k for k, length in zip(sizes, shape, strict=False)
    ):
        raise ValueError(
            f"The rule {label!r} does not fit parameter {name!r} of shape {tuple(shape)} on a mesh "
            f"of {dict(mesh.shape)}: each axis must be divisible by the devices it is split over."
        )
    return PartitionSpec(*label)


def _names(axes):
    return () if axes is None else axes if isinstance(axes, tuple) else (axes,)


def _owner(keys, names):
    """The longest of `names` that is a part of the path `keys`, or None."""
    for length in range(len(keys), 0, -1):
        for start in range(len(keys) - length, -1, -1):
            name = "/".join(keys[start : start + length])
            if name in names:
                return name
    return None


def _automatic(shape, mesh):
    spec = [None] * len(shape)
    if len(shape) < 2 or math.prod(shape) < LEAST_SPLIT:
        return PartitionSpec()
    *stack, rows, columns = range(len(shape))
    longer_first = sorted((rows, columns), key=lambda axis: -shape[axis])
    for mesh_axis, order in (("tensor", (columns, rows)), ("fsdp", (*stack, *longer_first))):
        size = mesh.shape.get(mesh_axis, 0)
        free = [a for a in order if size > 1 and spec[a] is None and shape[a] % size == 0]
        if free:
            spec[free[0]] = mesh_axis
    return PartitionSpec(*spec)
