"""Group "devices": one step with params sharded over 1, 2, 4, 8 devices.

`python -m benchmarks.devices '{"n": 256, "layers": 8}'` prints its rows as JSON. On a CPU the
devices are made up and share its cores: there the operations and the collectives of a device
count, not the time.
"""

import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")


KEYS = (
    ("cayley", "rebase_every=None"),
    ("exponential", "rebase_every=1"),
    ("qr", "retract"),
    ("pogo", "cubic"),
)
# Axes of a stack [layers, n, n].
LAYOUTS = {"layers": ("x",), "rows": (None, "x"), "columns": (None, None, "x")}


def rows(
    n: int,
    layers: int,
    keys: Sequence[tuple[str, str]] = KEYS,
    counts: Sequence[int] = (1, 2, 8),
    layouts: Sequence[str] = tuple(LAYOUTS),
    turns: int = 5,
) -> list[dict[str, Any]]:
    """A step on a stack [layers, n, n], sharded by layers, or by rows or columns of its
    matrices."""
    import jax
    import jax.numpy as jnp
    import optax
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    from benchmarks.inputs import orthonormal
    from benchmarks.steps import LEARNING_RATE, TRANSFORMATIONS, gradient, make_step
    from benchmarks.timing import planned_bytes, quartiles

    sgd, shape = optax.sgd(LEARNING_RATE), (layers, n, n)
    numbers = optax.contrib.MuonDimensionNumbers(-2, -1)
    arms = {(*key, "orthojax"): TRANSFORMATIONS[key](sgd) for key in keys}
    arms["muon, unconstrained", "5 steps", "optax"] = optax.contrib.scale_by_muon(
        weight_dimension_numbers=numbers
    )
    found = []
    counts = [k for k in counts if k <= jax.device_count() and layers % k == 0]
    for (method, variant, implementation), tx in arms.items():
        for layout in layouts:
            for k in counts:
                mesh = jax.make_mesh((k,), ("x",), (AxisType.Auto,), devices=jax.devices()[:k])
                sharded = NamedSharding(mesh, PartitionSpec(*LAYOUTS[layout]))
                place = lambda x, to=sharded: jax.device_put(jnp.asarray(x, jnp.float32), to)
                w, g = place(orthonormal(shape)), place(gradient(shape))
                state = jax.jit(tx.init)(w)
                compiled = jax.jit(make_step(tx)).lower(w, state, g).compile()
                call = functools.partial(compiled, w, state, g)
                seconds = [_seconds(call) for _ in range(turns + 1)]
                text = compiled.as_text()
                found.append(
                    {
                        "group": "devices",
                        "method": method,
                        "variant": variant,
                        "implementation": implementation,
                        "shape": shape,
                        "dtype": "float32",
                        "layout": layout,
                        "devices": k,
                        "flops": (compiled.cost_analysis() or {}).get("flops"),
                        "memory_bytes": planned_bytes(compiled),
                        "collectives": {
                            name: count
                            for name in _COLLECTIVES
                            if (count := text.count(f" {name}(") + text.count(f" {name}-start("))
                        },
                        "seconds": quartiles(seconds[1:]),
                    }
                )
    return found


def _seconds(call):
    import jax

    began = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - began


def rows_elsewhere(n: int, layers: int) -> list[dict[str, Any]]:
    """`rows` in a process of its own, on eight made-up devices where the platform is a CPU."""
    import jax

    environment = dict(os.environ)
    if jax.default_backend() != "cpu":
        return rows(n, layers)
    environment["JAX_PLATFORMS"] = "cpu"
    environment.setdefault("PJRT_NPROC", "32")  # With less, collectives can wait for ever.
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    environment["XLA_FLAGS"] = (
        environment.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    )
    command = [sys.executable, "-m", "benchmarks.devices", json.dumps({"n": n, "layers": layers})]
    done = subprocess.run(
        command,
        env=environment,
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    print(json.dumps(rows(**json.loads(sys.argv[1]))))
