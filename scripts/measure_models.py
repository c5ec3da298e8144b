"""What a training step of the ImageNet models takes, dense and of low rank, without the pictures.

  python scripts/measure_models.py --out=sizes.json               # sizes, on 8 made-up devices
  python scripts/measure_models.py --run --batch=2 --ranks=0.69,0.25          # runs steps
  python scripts/measure_models.py --run --batch=64 --dtype=bfloat16          # on a GPU

Of the arm "OIALR" of each configuration: the step is that of `experiments/run.py`, with its
optimizer and its choice of kernels; a rank is a part of the short side of each kernel.

Sizes are read from the program that XLA compiles for `--devices` CPUs that are not there, with
`--batch` pictures on each; no step is run. Per device: FLOPs (two a multiply-add), also by the
formulas of `orthojax.factored`, arguments, temporary memory, and bytes of the results of
collectives. With --run, random pictures go through real steps on the devices that there are; dense
steps and steps of low rank take turns, medians; of CPU time too, on which other programs on the
same cores have less influence. `--dtype` is that of the products of linear layers
and convolutions but the head; parameters stay float32.
"""

import argparse
import importlib
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
if __name__ == "__main__" and "--run" not in sys.argv:  # Before jax starts.
    made_up = re.search(r"--devices[= ](\d+)", " ".join(sys.argv))
    os.environ["JAX_PLATFORMS"] = "cpu"
    # Machine code is not needed: no optimization behind that of the program.
    os.environ["XLA_FLAGS"] = (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0 "
        f"--xla_force_host_platform_device_count={made_up[1] if made_up else 8} "
        "--xla_llvm_disable_expensive_passes=true"
    )

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.products import training_flops
from experiments import configuration, data, fitting, low_rank, optimizers, parallel, training
from experiments.data.pictures import MEAN_AND_STD
from orthojax import matrices
from orthojax.bases import Basis

MODELS = {
    "ViT-B/16": "oialr_imagenet_vitb16",
    "ResNet-RS 101": "oialr_imagenet_resnetrs101",
    "ResNet-50": "imagenet_resnet50",
}
CLASSES = 1000


class Case(NamedTuple):
    """A training step, and what it is made of."""

    config: Any
    model: training.Model
    method: Any  # `orthojax.OIALR`
    optimizer: Any
    devices: parallel.Parallel
    step: Any


def make(config, dtype="float32") -> Case:
    """The training step of an arm, for pictures of `config.data.size` pixels."""
    side = config.data.size
    split = data.Split(np.zeros((1, side, side, 3), np.uint8), np.zeros(1, np.int32))
    arguments = {"image_shape": (side, side, 3), "num_classes": CLASSES}
    dataset = data.Dataset("", "classification", split, None, split, arguments, *MEAN_AND_STD)
    model = fitting.make_model(config, dataset)
    method = fitting.make_method(config, model, dataset)
    if dtype != "float32":
        model = model._replace(train=in_dtype(model, jnp.dtype(dtype)))
    devices = parallel.of(config)
    optimizer = devices.divide(optimizers.make_optimizer(config, method))
    step = devices.compile_step(
        lambda axis: training.make_train_step(config, model, optimizer, axis)
    )
    return Case(config, model, method, optimizer, devices, step)


def in_dtype(model, dtype):
    """The graph of the model in training, with products in `dtype` but for those of the head."""
    module = nnx.eval_shape(lambda: nnx.merge(model.train, *model.init()))
    for path, layer in nnx.iter_modules(module):
        if isinstance(layer, nnx.Linear | nnx.Conv) and path != ("head",):
            layer.dtype = dtype
    return nnx.graphdef(module)


def columns(case, params, part) -> dict[str, int]:
    """{path: rank} of the kernels at the part `part` of their short sides."""
    kernels, chosen = matrices.named(params), case.method.select(params)
    sides = {name: axes.matrix_shape(kernels[name].shape)[1] for name, axes in chosen.items()}
    return {name: max(1, round(part * side)) for name, side in sides.items()}


def abstract(case, part):
    """The shapes of the state, dense if `part` is None."""
    state = jax.eval_shape(lambda: training.init_state(case.model, case.optimizer, 0))
    ranks = columns(case, state.params, part) if part else {}
    return low_rank.abstract(case.config, case.method, case.optimizer, state, ranks)


def batch(case, size, place=lambda shape, dtype: jax.ShapeDtypeStruct(shape, dtype)):
    """Pictures and their classes, by default their shapes."""
    side = case.config.data.size
    return place((size, side, side, 3), jnp.uint8), place((size,), jnp.int32)


def numbers(tree) -> int:
    return sum(x.size for x in jax.tree.leaves(tree))


def stored(state) -> int:
    """Numbers of a checkpoint of the model."""
    bases = {} if low_rank.TRAINED in state.params else state.bases  # Or they are counted already.
    return numbers(state.params) + sum(b.u.size + b.v.size for b in bases.values())


def by_formulas(case, part, size) -> float:
    """FLOPs of all products of a step per device, by `benchmarks.products`."""
    params, variables = jax.eval_shape(case.model.init)

    def forward(params, variables, images):
        module = training.module_of(case.model.train, params, variables, {})
        return module(case.model.task.preprocess(images))

    program = jax.make_jaxpr(forward)(params, variables, batch(case, size)[0])
    names = [name for name in case.method.order if name.endswith("kernel")]
    ranks = columns(case, params, part) if part else {}
    return training_flops(program.jaxpr, names, ranks, jax.device_count())


def sizes(case, part, each) -> dict:
    """What the compiled step takes with `each` pictures a device, dense if `part` is None."""
    from topology import sent  # Not above: it would ask for CPUs also where steps are run.

    state, count = abstract(case, part), jax.device_count()
    split = NamedSharding(case.devices.replicated.mesh, PartitionSpec(parallel.BATCH))
    put = lambda x, to: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=to)
    placed = jax.tree.map(put, state, case.devices.place(state))
    images, labels = (put(x, split) for x in batch(case, each * count))
    compiled = case.step.lower(placed, images, labels).compile()
    memory = compiled.memory_analysis()
    return {
        "rank": part,
        "trained": numbers(state.params),
        "stored": stored(state),
        "flops": compiled.cost_analysis()["flops"],
        "flops_by_formulas": by_formulas(case, part, each * count),
        "argument_bytes": memory.argument_size_in_bytes,
        "optimizer_bytes": sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state.opt_state)),
        "temporary_bytes": memory.temp_size_in_bytes,
        "sent_bytes": sent(compiled.as_text()),
    }


# Steps that are run.


def initial(case):
    """A new state in its place, dense."""
    # Not jitted: the draws of a hundred layers take minutes to compile.
    return case.devices.put_state(training.init_state(case.model, case.optimizer, 0))


def decomposed(case, params):
    """{path: (U, singular values, V')} of the kernels, on the host."""
    kernels = matrices.named(params)
    views = {name: a.view(kernels[name]) for name, a in case.method.select(params).items()}
    return {n: np.linalg.svd(np.asarray(w), full_matrices=False) for n, w in views.items()}


def of_low_rank(case, state, factors, part):
    """The state whose kernels are cut to their first singular values, with a new optimizer."""
    kernels, chosen = matrices.named(state.params), case.method.select(state.params)
    bases, cores = {}, {}
    for name, rank in columns(case, state.params, part).items():
        u, s, v = factors[name]
        rest = jnp.int32(rank), chosen[name], kernels[name].shape
        bases[name] = Basis(jnp.asarray(u[:, :rank]), jnp.asarray(v[:rank].T), *rest)
        cores[name] = jnp.diag(jnp.asarray(s[:rank]))
    params = jax.tree.map(jnp.copy, matrices.replaced(state.params, cores))
    rest = jax.tree.map(jnp.copy, state._replace(params=(), opt_state=(), bases=()))
    state = rest._replace(params=params, bases=bases, opt_state=case.optimizer.init(params))
    return case.devices.put_state(state)


def run(case, parts, size, rounds):
    """Rows of steps that are run: dense, and of each rank, by turns."""
    rng = np.random.default_rng(0)
    images, labels = batch(case, size, lambda shape, dtype: rng.integers(0, 256, shape, dtype))
    labels %= CLASSES
    states, began = {None: initial(case)}, time.process_time()
    factors = decomposed(case, states[None].params) if parts else {}
    seconds_of_svd = time.process_time() - began
    states |= {part: of_low_rank(case, states[None], factors, part) for part in parts}
    programs, before, rows, taken = {}, {}, {}, {part: [] for part in states}
    inputs = case.devices.put(size, images, labels)
    for part, state in states.items():
        before[part] = jax.tree.map(np.array, state.params)  # Copies: the step consumes them.
        programs[part] = case.step.lower(state, *inputs).compile()
        states[part], loss = programs[part](state, *inputs)
        rows[part] = {"rank": part, "first_loss": float(loss), "svd_cpu_seconds": seconds_of_svd}
    for _ in range(rounds):
        for part in states:
            began = time.perf_counter(), time.process_time()
            states[part], loss = programs[part](states[part], *inputs)
            jax.block_until_ready(states[part])
            taken[part].append((time.perf_counter() - began[0], time.process_time() - began[1]))
            rows[part]["last_loss"] = float(loss)
    for part, row in rows.items():
        different = lambda x, y: bool(np.any(x != np.asarray(y)))
        changed = jax.tree.leaves(jax.tree.map(different, before[part], states[part].params))
        row |= {"changed": sum(changed), "of": len(changed)}
        seconds, cpu_seconds = np.median(taken[part], axis=0).tolist()
        row |= {"seconds": seconds, "cpu_seconds": cpu_seconds, "all_seconds": taken[part]}
        row |= {"finite": bool(np.isfinite([row["first_loss"], row["last_loss"]]).all())}
    return list(rows.values())


SIZES = "rank|trained|stored|GFLOP|by formulas|arguments|of these optimizer|temporary|sent"
TIMES = "rank|ms a step|of dense|CPU ms a step|of dense|loss, first and last|params that changed"


def cells(row, dense) -> list[str]:
    """A row of a table; `dense` is its first."""
    name = "dense" if row["rank"] is None else f"{row['rank']:g}"
    if "seconds" in row:
        losses = f"{row['first_loss']:.4f}, {row['last_loss']:.4f}"
        pair = lambda key: (f"{1e3 * row[key]:.0f}", f"{row[key] / dense[key]:.2f}")
        changed = f"{row['changed']} of {row['of']}"
        return [name, *pair("seconds"), *pair("cpu_seconds"), losses, changed]
    part = lambda key: f"{row[key] / 1e6:.2f} M, {row[key] / dense[key]:.1%}"
    mib = lambda size: f"{size / 2**20:.0f} MiB"
    work = f"{row['flops'] / 1e9:.1f}, {row['flops'] / dense['flops']:.2f}"
    by_hand = f"{row['flops_by_formulas'] / 1e9:.1f}"
    memory = [mib(row[f"{key}_bytes"]) for key in ("argument", "optimizer", "temporary")]
    sent = ", ".join(f"{kind} {mib(size)}" for kind, size in row["sent_bytes"].items())
    return [name, part("trained"), part("stored"), work, by_hand, *memory, sent or "nothing"]


def parsed():
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="", help=f"expression; of {', '.join(MODELS)}")
    parser.add_argument("--ranks", default="1,0.69,0.5,0.25", help="parts; %(default)s")
    parser.add_argument("--batch", type=int, default=32, help="pictures a device; %(default)s")
    parser.add_argument("--devices", type=int, default=8, help="made up; %(default)s")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--run", action="store_true", help="run steps instead")
    parser.add_argument("--rounds", type=int, default=5, help="of steps; %(default)s")
    parser.add_argument("--out", type=Path, help="JSON file for the rows")
    return parser.parse_args()


def main():
    """Measures and reports, model by model."""
    chosen = parsed()
    parts = [float(part) for part in chosen.ranks.split(",") if part]
    record = {"device": jax.devices()[0].device_kind, "devices": jax.device_count()}
    record |= {"jax": jax.__version__, "batch": chosen.batch, "dtype": chosen.dtype, "models": {}}
    for name, config in MODELS.items():
        if not re.search(chosen.models, name):
            continue
        own = importlib.import_module(f"experiments.configs.{config}").get_config()
        case = make(configuration.arms(own)["OIALR"], chosen.dtype)
        how = f"{chosen.batch} pictures of {case.config.data.size} pixels a device"
        print(f"\n{name}, {how}, {jax.device_count()} x {record['device']}, {chosen.dtype}\n")
        header = TIMES if chosen.run else SIZES
        print(f"|{header}|\n|{'---|' * len(header.split('|'))}", flush=True)
        rows = record["models"][name] = []
        size = chosen.batch * jax.device_count()
        found = (
            run(case, parts, size, chosen.rounds)
            if chosen.run
            else (sizes(case, part, chosen.batch) for part in (None, *parts))
        )
        for row in found:
            rows.append(row)
            print(f"| {' | '.join(cells(row, rows[0]))} |", flush=True)
        if chosen.out:
            chosen.out.parent.mkdir(parents=True, exist_ok=True)
            chosen.out.write_text(json.dumps(record, indent=1) + "\n")
        jax.clear_caches()


if __name__ == "__main__":
    main()
