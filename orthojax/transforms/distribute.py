"""The matrices of an update divided among devices, whatever the layout of the params."""

from typing import Any

import optax
from jax.sharding import AxisType, Mesh

from orthojax import batches


def distribute(
    inner: optax.GradientTransformation,
    mesh: Mesh,
    axes: str | tuple[str, ...],
    least: int = 2**16,
) -> optax.GradientTransformationExtraArgs:
    """`inner`, of whose constrained matrices each device computes its share.

    In data-parallel training every device computes the same update; with split matrices (FSDP,
    tensor parallelism) the products and inverses of a constraint send many times what they are
    made of. Here all matrices of one shape are a batch, divided over the devices along `axes`, each
    matrix whole on one of them: gradients are moved there once and results back once. Operations
    per device fall with their number; results are the same, to rounding. Where these lie, say by
    `out_shardings` of `jax.jit` or `jax.lax.with_sharding_constraint` (see `shardings`): the
    compiler alone would leave them divided.

    Divided are the computations of this package inside `inner`: `reparameterize`, `orthogonal`,
    `riemannian_gradient`, `retract`, `pogo`, `landing`, `oialr`. For training under `jax.jit`, on
    one process or many; not inside `pmap` or `shard_map`. This is how distributed Shampoo (Shi et
    al. 2023, arXiv:2309.06497) divides its roots.

    Args:
      inner: any transformation.
      mesh: of Auto axes, that of the params.
      axes: names of its axes; of these, from the first on, as many as it takes for each matrix to
        have a device of its own.
      least: numbers in the smallest matrix that is divided; smaller ones are computed by every
        device, which costs less than a message.

    Raises:
      ValueError: an axis that the mesh lacks, or one that is not Auto.

    >>> import jax, optax, orthojax
    >>> mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    >>> tx = orthojax.distribute(orthojax.orthogonal(optax.adam(1e-3)), mesh, "data")
    """
    axes = (axes,) if isinstance(axes, str) else tuple(axes)
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    for axis in axes:
        if kinds.get(axis) != AxisType.Auto:
            raise ValueError(
                f"`axes` are Auto axes of the mesh, got {axis!r}; the mesh has "
                f"{', '.join(f'{name}: {kind.name}' for name, kind in kinds.items())}. Make it by "
                "jax.make_mesh(..., axis_types=(jax.sharding.AxisType.Auto,) * number of axes)."
            )
    inner = optax.with_extra_args_support(inner)
    split = batches.Split(mesh, axes, least)

    def update(updates: Any, state: Any, params: Any = None, **extra_args):
        with batches.split_by(split):
            return inner.update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(inner.init, update)
