"""Data parallelism over the local devices: the batch is split, the state is on each device.

Both kinds take the same mean over the whole batch, so they differ from one device in rounding only.
Models with batch statistics need "jit": under "pmap" each device would normalize its part of the
batch by the moments of that part.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

AXIS = "data"


class Parallel(NamedTuple):
    """How a training step is compiled and where its arrays live."""

    replicated: NamedSharding  # of the state
    split: NamedSharding  # of batches, for evaluation
    compile_step: Callable  # (axis name | None -> step) -> step, which consumes its state
    put: Callable  # (inputs, targets) of the whole batch -> arguments of the step
    spread: Callable  # replicated state -> as the step takes it
    gather: Callable  # inverse of `spread`
    run_ahead: int  # steps that may wait for the devices; their batches take memory


def _shardings():
    devices = jax.local_devices()
    # Auto, because the default, Explicit axes, lets no QR or solve take a split matrix.
    mesh = jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)
    return NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(AXIS))


def _run_ahead():
    # jax 0.10 can deadlock on few cores if steps of several fake CPU devices are under way.
    several_on_cpu = jax.default_backend() == "cpu" and jax.local_device_count() > 1
    return 0 if several_on_cpu else 8


def jit(seeds=()) -> Parallel:
    """One program for all devices; the compiler adds the communication.

    With `seeds`, arguments of the step have a leading axis of models before that of examples.
    """
    replicated, split = _shardings()
    batches = NamedSharding(split.mesh, PartitionSpec(None, AXIS)) if seeds else split
    return Parallel(
        replicated,
        split,
        compile_step=lambda make_step: jax.jit(
            make_step(None), donate_argnums=0, out_shardings=replicated
        ),
        put=lambda *batch: jax.device_put(batch, batches),
        spread=lambda state: state,
        gather=lambda state: state,
        run_ahead=_run_ahead(),
    )


def pmap() -> Parallel:
    """One program a device, with explicit means; arrays have a leading axis of devices."""
    replicated, split = _shardings()
    devices = len(jax.local_devices())
    stack = jax.jit(
        lambda state: jax.tree.map(lambda x: jnp.stack([x] * devices), state), out_shardings=split
    )
    first = jax.jit(lambda state: jax.tree.map(lambda x: x[0], state), out_shardings=replicated)
    return Parallel(
        replicated,
        split,
        compile_step=lambda make_step: jax.pmap(make_step(AXIS), axis_name=AXIS, donate_argnums=0),
        put=lambda *batch: jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch),
        spread=stack,
        gather=first,
        run_ahead=_run_ahead(),
    )


PARALLEL = {"jit": jit, "pmap": pmap}
