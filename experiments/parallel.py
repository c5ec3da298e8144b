"""One program for all devices of all processes: where its arrays lie, and how they get there.

The mesh has the axes data, fsdp and tensor. A batch is split over data and fsdp, each device gets
its rows; params and what the optimizer keeps for them are split over fsdp and tensor by one list of
rules (`orthojax.shardings`), and not over data. The mean over a batch is that of the whole batch,
whatever the devices: results differ in rounding only.

"pmap" is the older way, for data only: means are explicit, and each device has its own copy of the
state. Models with batch statistics need "jit": under "pmap" each device would normalize its part of
the batch by the moments of that part.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import orthojax

AXES = ("data", "fsdp", "tensor")
BATCH = ("data", "fsdp")
PMAP_AXIS = "devices"
EVERYTHING_AUTO = ((".*", "auto"),)


class Parallel(NamedTuple):
    """How a training step is compiled and where its arrays live."""

    replicated: NamedSharding  # of what every device has
    place: Callable  # state -> its shardings
    put_state: Callable  # state from anywhere -> in its place
    whole: Callable  # state in its place -> on each device
    rows: Callable  # batch size -> sorted rows of the batch that this process needs
    put_rows: Callable  # (batch size, those rows of inputs, ...) -> arrays of the whole batch
    divide: Callable  # optimizer -> the same, of whose matrices each device computes a part
    compile_step: Callable  # (axis name | None -> step) -> step, which consumes its state
    put: Callable  # (batch size, rows of inputs, ...) -> arguments of the step
    spread: Callable  # state in its place -> as the step takes it
    gather: Callable  # inverse of `spread`
    takes_compiled: bool  # whether a compiled step takes what the step itself takes
    run_ahead: int  # steps that may wait for the devices; their batches take memory


def make_mesh(sizes=None) -> Mesh:
    """The mesh of all devices; `sizes` {"data": -1, "fsdp": 1, "tensor": 1}, -1 is what is left.

    Raises `ValueError` for sizes that do not fit the devices.
    """
    sizes = {"data": -1, "fsdp": 1, "tensor": 1} | (sizes or {})
    devices = jax.devices()
    shape = [sizes[axis] for axis in AXES]
    rest = math.prod(size for size in shape if size > 0)
    if shape.count(-1) > 1 or min(shape) < -1 or 0 in shape or len(devices) % rest:
        raise ValueError(_mesh_error(shape, len(devices)))
    shape = [len(devices) // rest if size == -1 else size for size in shape]
    if math.prod(shape) != len(devices):
        raise ValueError(_mesh_error(shape, len(devices)))
    # Auto, because the default, Explicit axes, lets no QR or solve take a split matrix.
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def _mesh_error(shape, count):
    wanted = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, shape, strict=True))
    return (
        f"the sizes {wanted} do not make up the {count} devices; each is positive, one may be -1, "
        "which takes what is left."
    )


def _run_ahead():
    # jax 0.10 can deadlock on few cores if steps of several fake CPU devices are under way.
    several_on_cpu = jax.default_backend() == "cpu" and jax.local_device_count() > 1
    return 0 if several_on_cpu else 8


@functools.lru_cache
def _rows(sharding, size, axis=0):
    """The sorted rows that the devices of this process have of `size`, split along `axis`."""
    places = sharding.addressable_devices_indices_map((1,) * axis + (size,))
    rows = np.unique(np.concatenate([np.arange(size)[index[axis]] for index in places.values()]))
    rows.setflags(write=False)  # Shared by all steps.
    return rows


def _put_rows(sharding, size, arrays, axis=0):
    """Global arrays, of `size` along `axis`, from those rows that this process needs."""
    rows = _rows(sharding, size, axis)

    def put(local):
        local = np.asarray(local)
        shape = (*local.shape[:axis], size, *local.shape[axis + 1 :])

        def part(index):
            start, stop, _ = index[axis].indices(size)
            begin, end = np.searchsorted(rows, [start, stop])
            return local[(*index[:axis], slice(begin, end), *index[axis + 1 :])]

        return jax.make_array_from_callback(shape, sharding, part)

    return jax.tree.map(put, arrays)


def jit(mesh=None, rules=EVERYTHING_AUTO, seeds=()) -> Parallel:
    """One program for all devices; the compiler adds the communication.

    With `seeds`, arguments of the step have a leading axis of models before that of examples, and
    so has the state.
    """
    mesh = make_mesh(mesh)
    replicated = NamedSharding(mesh, PartitionSpec())
    evaluated = NamedSharding(mesh, PartitionSpec(BATCH))
    batches = NamedSharding(mesh, PartitionSpec(None, BATCH)) if seeds else evaluated
    axis = 1 if seeds else 0

    def place(state):
        return orthojax.shardings(state, state.params, mesh, rules)

    def moved(state, shardings):
        return jax.jit(lambda x: x, out_shardings=shardings)(state)

    def compile_step(make_step):
        step = make_step(None)

        def placed_step(state, *batch):
            state, loss = step(state, *batch)
            # Here and not as out_shardings: a change of rank changes the shapes.
            state = jax.lax.with_sharding_constraint(state, place(state))
            return state, jax.lax.with_sharding_constraint(loss, replicated)

        return jax.jit(placed_step, donate_argnums=0)

    return Parallel(
        replicated,
        place,
        put_state=lambda state: moved(state, place(state)),
        whole=lambda state: moved(state, replicated),
        rows=lambda size: _rows(evaluated, size),
        put_rows=lambda size, *arrays: _put_rows(evaluated, size, arrays),
        divide=lambda optimizer: orthojax.distribute(optimizer, mesh, ("fsdp", "data")),
        compile_step=compile_step,
        put=lambda size, *batch: _put_rows(batches, size, batch, axis),
        spread=lambda state: state,
        gather=lambda state: state,
        takes_compiled=True,
        run_ahead=_run_ahead(),
    )


def pmap(mesh=None, rules=EVERYTHING_AUTO, seeds=()) -> Parallel:
    """One program a device, with explicit means; arrays have a leading axis of the devices of this
    process."""
    common = jit(mesh, rules)
    devices = jax.local_devices()
    local = jax.make_mesh((len(devices),), (PMAP_AXIS,), devices=devices)
    stacked = NamedSharding(local, PartitionSpec(PMAP_AXIS))

    def spread(state):
        def stack(x):
            own = jax.device_put([x.addressable_data(0)[None]] * len(devices), devices)
            return jax.make_array_from_single_device_arrays((len(devices), *x.shape), stacked, own)

        return jax.tree.map(stack, state)

    def gather(state):
        def first(x):
            copies = [shard.data[0] for shard in x.addressable_shards]
            return jax.make_array_from_single_device_arrays(x.shape[1:], common.replicated, copies)

        return jax.tree.map(first, state)

    def put(size, *batch):
        split = lambda x: np.reshape(x, (len(devices), size // jax.device_count(), *x.shape[1:]))
        return jax.tree.map(split, batch)

    return common._replace(
        place=lambda state: jax.tree.map(lambda _: common.replicated, state),
        put_state=common.whole,
        divide=lambda optimizer: optimizer,
        compile_step=lambda make_step: jax.pmap(
            make_step(PMAP_AXIS), axis_name=PMAP_AXIS, donate_argnums=0
        ),
        put=put,
        spread=spread,
        gather=gather,
        # Of several processes each gives its own part to pmap, but to its program a global array.
        takes_compiled=jax.process_count() == 1,
    )


PARALLEL = {"jit": jit, "pmap": pmap}


def _sizes(config):
    return {axis: config.mesh[axis] for axis in AXES}


def of(config, seeds=()) -> Parallel:
    """The `Parallel` that `config` asks for; raises `ValueError` if the devices do not fit."""
    c, sizes = config.mesh, _sizes(config)
    if config.parallel == "pmap" and max(sizes["fsdp"], sizes["tensor"]) > 1:
        raise ValueError(
            f"parallel=pmap splits the batch only, got mesh.fsdp={c.fsdp}, mesh.tensor={c.tensor}; "
            "set parallel=jit."
        )
    return PARALLEL[config.parallel](sizes, c.rules, seeds)


def batch_devices(config) -> int:
    """Over how many devices a batch is split."""
    mesh = make_mesh(_sizes(config))
    return math.prod(mesh.shape[axis] for axis in BATCH)
