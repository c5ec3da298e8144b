"""What each transformation computes, keeps and sends per device on a TPU pod, without the pod.

  pip install libtpu              # the compiler alone is enough; "jax[tpu]" pins its version
  python scripts/topology.py --topology=v5e:16x16 --output=runs/topology
  python scripts/topology.py --topology=v5p:16x16x16 --layers=4096
  python scripts/topology.py --topology=cpu:256   # made-up CPUs: compiles in a tenth of the time

Compiles one update (gradients of W in, new W out, jitted, donated, SGD with momentum inside) of a
stack [layers, n, n] ahead of time for the described topology, by XLA's compiler for TPUs, and reads
from the compiled program: multiply-adds, arguments, temporary memory, and what its collectives
send. No step is run and no time is measured.

Layouts of the stack: "replicated" on every device, as in data-parallel training; "layers", each
matrix whole on some device; "rows", the rows of every matrix split over all devices, as in FSDP.
With `orthojax.distribute` around the transformation, and, if asked, alone: what splits the rows of
matrices then takes minutes to compile.
"""

import argparse
import itertools
import json
import math
import os
import re
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if made_up := re.search(r"--topology[= ]cpu:(\d+)", " ".join(sys.argv)):  # Before jax starts.
    os.environ["XLA_FLAGS"] = (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={made_up[1]}"
    )
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # No look for a TPU of this machine.
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # Two of these at a time.

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import orthojax
from benchmarks import steps

TRANSFORMATIONS = {
    "none": lambda inner: inner,
    **{
        f"{method} {variant}".strip(): steps.TRANSFORMATIONS[method, variant]
        for method, variant in (
            ("cayley", "rebase_every=None"),
            ("cayley", "rebase_every=1"),
            ("exponential", "rebase_every=1"),
            ("householder", "rebase_every=None"),
            ("polar", "retract"),
            ("qr", "retract"),
            ("pogo", "cubic"),
            ("landing", ""),
        )
    },
    "optax.contrib.muon": lambda inner: optax.chain(
        optax.contrib.scale_by_muon(
            weight_dimension_numbers=optax.contrib.MuonDimensionNumbers(-2, -1)
        ),
        optax.scale(-1e-3),
    ),
}
LAYOUTS = {
    "replicated": PartitionSpec(),
    "layers": PartitionSpec("fsdp"),
    "rows": PartitionSpec(None, "fsdp"),
}
BYTES = {"f32": 4, "bf16": 2, "s32": 4, "u32": 4, "pred": 1, "f16": 2, "s8": 1, "u8": 1}
_COLLECTIVE = re.compile(
    r"= (?P<shapes>\(?.*?) (?P<name>all-gather|all-reduce|all-to-all|collective-permute|"
    r"reduce-scatter)(?P<start>-start)?\("
)


def sent(text: str) -> dict[str, int]:
    """Bytes of the results of all collectives of a compiled program, {name: bytes}; one inside a
    loop counts once."""
    found = {}
    for line in text.splitlines():
        if match := _COLLECTIVE.search(line):
            sizes = [
                BYTES.get(kind, 4) * math.prod(map(int, filter(None, dims.split(","))))
                for kind, dims in re.findall(r"(\w+)\[([\d,]*)\]", match["shapes"])
            ]
            # A start gives its operand and its result; otherwise all are results.
            size = max(sizes, default=0) if match["start"] else sum(sizes)
            found[match["name"]] = found.get(match["name"], 0) + size
    return found


def measure(transformation, layout, divided, devices, layers, n, dtype="float32") -> dict:
    """One row of the table."""
    mesh = Mesh(np.array(devices), ("fsdp",), axis_types=(AxisType.Auto,))
    lies = NamedSharding(mesh, LAYOUTS[layout])
    whole = NamedSharding(mesh, PartitionSpec())
    tx = transformation(optax.sgd(1e-3, momentum=0.9))
    if divided:
        tx = orthojax.distribute(tx, mesh, "fsdp")

    def places(tree):
        # What has a matrix in each layer lies as W does.
        is_stack = lambda x: x.ndim == 3 and x.shape[0] == layers
        return jax.tree.map(lambda x: lies if is_stack(x) else whole, tree)

    w = jax.ShapeDtypeStruct((layers, n, n), dtype, sharding=lies)
    state = jax.eval_shape(tx.init, w)
    state = jax.tree.map(
        lambda x, to: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=to), state, places(state)
    )

    out_shardings = lies, places(state)
    step = jax.jit(steps.make_step(tx), donate_argnums=(0, 1), out_shardings=out_shardings)
    compiled = step.lower(w, state, w).compile()
    memory, text = compiled.memory_analysis(), compiled.as_text()
    return {
        "layout": layout,
        "distribute": divided,
        "devices": len(devices),
        "layers": layers,
        "n": n,
        "dtype": dtype,
        "flops": (compiled.cost_analysis() or {}).get("flops"),
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "sent_bytes": sent(text),
        "loops": text.count("known_trip_count"),
    }


def main():
    """Compiles and reports."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--topology", default="v5e:16x16", help="as jax calls it: %(default)s")
    parser.add_argument("--layers", type=int, default=256)
    parser.add_argument("--n", type=int, default=4096)
    parser.add_argument("--methods", default="", help="regular expression; by default all")
    parser.add_argument("--layouts", default=",".join(LAYOUTS), help="of %(default)s")
    parser.add_argument("--alone", action="store_true", help="also without orthojax.distribute")
    parser.add_argument("--output", type=Path, help="directory for <topology>.json")
    chosen = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)
    jax.config.update("jax_default_matmul_precision", "highest")
    jnp.zeros(1)  # A backend, before the topology.
    try:
        if chosen.topology.startswith("cpu:"):
            devices = jax.devices()
        else:
            devices = topologies.get_topology_desc(chosen.topology, "tpu").devices
    except Exception as error:
        raise SystemExit(
            f"--topology={chosen.topology}: {str(error).splitlines()[0]}\n"
            "It needs libtpu (pip install libtpu) and a name like v5e:16x16 or v5p:16x16x16."
        ) from error
    rows = []
    print("| transformation | layout | TFLOP | arguments | temporary | sent |")
    print("|---|---|---|---|---|---|", flush=True)
    cases = itertools.product(
        (name for name in TRANSFORMATIONS if re.search(chosen.methods, name)),
        chosen.layouts.split(","),
        (False, True) if chosen.alone else (True,),
    )
    for name, layout, divided in cases:
        try:
            row = measure(TRANSFORMATIONS[name], layout, divided, devices, chosen.layers, chosen.n)
        except Exception as error:  # Out of memory is a result.
            row = {"layout": layout, "distribute": divided, "error": str(error)[:2000]}
            told = re.search(r"Used .* of .* hbm\.", str(error)) or str(error).splitlines()[0][:200]
            cells = [told if isinstance(told, str) else told[0], "", "", ""]
        else:
            mib = lambda size: f"{size / 2**20:.0f} MiB"
            parts = [f"{kind} {mib(size)}" for kind, size in row["sent_bytes"].items()]
            cells = [f"{row['flops'] / 1e12:.3f}", mib(row["argument_bytes"])]
            cells += [mib(row["temporary_bytes"]), ", ".join(parts) or "nothing"]
        how = f"{layout}, distribute" if divided else layout
        print(f"| {name} | {how} | {' | '.join(cells)} |", flush=True)
        rows.append({"method": name, "topology": chosen.topology, **row})
    if chosen.output:
        chosen.output.mkdir(parents=True, exist_ok=True)
        path = chosen.output / f"{chosen.topology.replace(':', '_')}.json"
        path.write_text(json.dumps({"versions": jax.__version__, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
