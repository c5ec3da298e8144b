"""What orthojax costs, beside its peers, in units of one matrix product.

    python scripts/benchmark.py --quick                            # about 10 minutes
    taskset -c 0 python scripts/benchmark.py --output runs/benchmark  # on one core
    python scripts/benchmark.py --sizes 1024,2048,4096,8192        # as well on a GPU

Everything of one shape takes turns in one process, in another order in each round: JAX's product
[n, p] x [p, p] and PyTorch's, ours, what JAX, Optax, PyTorch, geotorch, geoopt, pogo-torch and
orthogonium have for it (`pip install -e ".[bench]"`; what is not installed is left out and said
so). XLA ignores the flags that set numbers of threads: pin by taskset. Prints Markdown tables, the
last one of what the library is held to; `--output` gets them as report.md, with results.json
(rows, hardware, versions, command) and figures.

Groups: maps (value and gradient), steps (gradient of W in, new W out, jitted, donated), bfloat16
(the same with weights in it), pca (POGO's own size), batch (against the number of matrices),
polar (factor of updates), updates (Muon and its kin, penalties), rotations (3 x 3), accuracy, law
(one-step errors), network (training step), leaves (against the number of equal leaves), devices
(sharded).
"""

import argparse
import datetime
import functools
import importlib.metadata
import importlib.util
import os
import platform
import shlex
import sys
import time
from pathlib import Path
from typing import NamedTuple

# Before jax starts. SciPy's and OpenMP's threads wait for each other where cores are few, and for
# work at the expense of whoever has its turn; a GPU is shared with PyTorch.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax

from benchmarks import (
    accuracy,
    devices,
    maps,
    polar_factor,
    report,
    steps,
    targets,
    timing,
    torch_peers,
    torch_steps,
    training,
    updates,
)

# In the order of the report.
ALL_GROUPS = (
    *("maps", "steps", "bfloat16", "pca", "batch"),
    *("polar", "updates", "rotations", "accuracy", "law", "network", "leaves", "devices"),
)


class Plan(NamedTuple):
    """Sizes and effort of a run. A shape is [*batch, n, p]."""

    effort: timing.Effort
    squares: tuple[int, ...] = (256, 512, 1024, 2048)
    step_squares: tuple[int, ...] = (256, 512, 1024, 2048)
    others: tuple[tuple[int, ...], ...] = (
        *((1024, 64), (4096, 256)),
        *((64, 64, 64), (1024, 16, 16), (4096, 3, 3)),
    )
    methods: tuple[str, ...] = maps.METHODS
    steps: tuple[tuple[str, str], ...] = tuple(steps.TRANSFORMATIONS)
    bfloat16: tuple[int, ...] = (512, 1024)
    pca: tuple[int, int] = (2000, 1500)
    batches: tuple[int, ...] = (1, 16, 256, 1024, 4096)
    batch_n: int = 16
    polar: tuple[tuple[int, int], ...] = ((512, 512), (2048, 512))
    updates: tuple[tuple[int, int], ...] = ((512, 512), (1024, 64))
    rotations: int = 4096
    accuracy_n: int = 256
    network: tuple[int, int, int] = (1024, 8, 8192)  # width, layers, batch
    leaves: tuple[int, ...] = (1, 10, 100)
    leaf_n: int = 128
    sharded: tuple[int, int] = (512, 8)  # n, layers
    largest_exact: int = 2**18  # entries, up to which the error of one step is measured
    most_seconds: float = 10  # of one call of a peer


FULL = Plan(timing.Effort(rounds=15, seconds=10))
QUICK = Plan(
    timing.Effort(rounds=5, seconds=1),
    squares=(512, 1024),
    step_squares=(512,),
    others=((1024, 64), (64, 64, 64), (1024, 16, 16)),
    methods=("exponential", "cayley", "householder"),
    steps=tuple(key for key in steps.TRANSFORMATIONS if key[1] != "rebase_every=10"),
    bfloat16=(),
    batches=(1, 256),
    pca=(500, 375),
    updates=((1024, 64),),
    accuracy_n=64,
    network=(512, 8, 4096),
    leaf_n=64,
    sharded=(128, 8),
    largest_exact=2**16,
    most_seconds=5,
)


def _together(cases, shape, effort, with_torch):
    """The rows of `cases`, with the units of their shape."""
    units = [timing.product(shape)]
    if with_torch:
        units.append(torch_peers.product(shape))
    return timing.measure([*units, *cases], effort)


def measured(group: str, plan: Plan, with_torch: bool) -> list[dict]:
    """The rows of one of `ALL_GROUPS`."""
    rows = []

    def add(shape, ours, theirs=()):
        rows.extend(
            _together([*ours, *(theirs if with_torch else ())], shape, plan.effort, with_torch)
        )

    if group == "maps":
        for shape in (*((n, n) for n in plan.squares), *plan.others):
            peers = torch_peers.maps(shape, plan.methods, plan.most_seconds)
            add(shape, maps.cases(shape, plan.methods), peers)
    elif group == "steps":
        for shape in (*((n, n) for n in plan.step_squares), *plan.others):
            ours = steps.cases(shape, plan.steps, largest_exact=plan.largest_exact)
            add(shape, ours, torch_steps.cases(shape, plan.most_seconds))
    elif group == "bfloat16":
        for n in plan.bfloat16:
            low = {"dtype": "bfloat16", "group": group}
            ours = steps.cases((n, n), plan.steps, **low)
            unit = timing.product((n, n), "bfloat16", "bfloat16")
            add((n, n), [unit, *ours], torch_steps.cases((n, n), plan.most_seconds, **low))
    elif group == "pca":
        ours = steps.cases(plan.pca, steps.STEEP, group=group)
        add(
            plan.pca,
            ours,
            torch_steps.cases(plan.pca, plan.most_seconds, ("pogo", "qr"), group=group),
        )
    elif group == "batch":
        for batch in plan.batches:
            shape = (batch, plan.batch_n, plan.batch_n)
            peers = torch_steps.cases(shape, plan.most_seconds, ("pogo", "qr"), group=group)
            add(shape, steps.cases(shape, steps.STEEP, group=group), peers)
        for row in rows:  # The figure's own line of products.
            row["group"] = group
    elif group == "polar":
        for shape in plan.polar:
            add(shape, polar_factor.cases(shape))
    elif group == "updates":
        for shape in plan.updates:
            add(shape, updates.cases(shape))
    elif group == "rotations":
        add((plan.rotations, 3, 3), updates.rotations(plan.rotations))
    elif group == "accuracy":
        rows = accuracy.exponentials(plan.accuracy_n, with_torch)
    elif group == "law":
        rows = accuracy.laws()
    elif group == "network":
        rows = timing.measure(training.network(*plan.network), plan.effort)
    elif group == "leaves":
        for count in plan.leaves:
            add((count, plan.leaf_n, plan.leaf_n), training.leaves(count, plan.leaf_n))
    elif group == "devices":
        rows = devices.rows_elsewhere(*plan.sharded)
    return rows


def hardware() -> dict:
    """What it ran on."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), model)
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "cpu": model,
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "system": platform.platform(),
    }


def versions(with_torch: bool) -> dict:
    """{package: version}."""
    found = {"python": platform.python_version()}
    for name in ("orthojax-optax", "jax", "jaxlib", "optax", "numpy", "scipy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if with_torch:
        absent = torch_peers.missing()
        found |= {n: torch_peers.version(n) for n in torch_peers.PACKAGES if n not in absent}
    return found


def run(plan: Plan, groups: tuple[str, ...], with_torch: bool, log=print, save=None) -> dict:
    """The record of a run; `save` gets what there is of it after each group."""
    began, rows, seconds = time.perf_counter(), [], {}
    for group in groups:
        since = time.perf_counter()
        # TensorFloat-32 would compare speeds at different accuracy.
        with jax.default_matmul_precision("highest"):
            rows += measured(group, plan, with_torch)
        for row in rows:
            row["shape"] = tuple(row["shape"])
        seconds[group] = time.perf_counter() - since
        log(f"{group}: {seconds[group]:.0f} s")
        if save:
            save(_record(rows, seconds, began, with_torch))
    return _record(rows, seconds, began, with_torch)


def _record(rows, seconds, began, with_torch):
    return {
        "command": shlex.join(["python", *sys.argv]),
        "date": datetime.date.today().isoformat(),
        "seconds": time.perf_counter() - began,
        "group_seconds": seconds,
        "hardware": hardware(),
        "versions": versions(with_torch),
        "missing": torch_peers.missing(),
        "rows": rows,
        "targets": targets.table(rows),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measures and reports."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    numbers = lambda text: tuple(map(int, text.split(",")))
    parser.add_argument("--quick", action="store_true", help="fewer and smaller matrices")
    parser.add_argument("--groups", default=",".join(ALL_GROUPS), help="some of %(default)s")
    parser.add_argument("--sizes", type=numbers, help="n of the square matrices, e.g. 512,1024")
    parser.add_argument("--rounds", type=int, help="turns of each program")
    parser.add_argument("--no-peers", action="store_true", help="without PyTorch's packages")
    parser.add_argument("--output", type=Path, help="directory for the report")
    chosen = parser.parse_args(arguments)
    groups = tuple(chosen.groups.split(","))
    for group in groups:
        if group not in ALL_GROUPS:
            parser.error(f"--groups are some of {', '.join(ALL_GROUPS)}, got {group!r}.")
    plan = QUICK if chosen.quick else FULL
    if chosen.sizes:
        plan = plan._replace(squares=chosen.sizes, step_squares=chosen.sizes)
    if chosen.rounds:
        plan = plan._replace(effort=plan.effort._replace(rounds=chosen.rounds))
    with_torch = not chosen.no_peers and "torch" not in torch_peers.missing()

    jax.config.update("jax_enable_compilation_cache", False)  # It hides the compiler.
    log = lambda line: print(line, file=sys.stderr, flush=True)
    save = functools.partial(report.write, directory=chosen.output) if chosen.output else None
    record = run(plan, groups, with_torch, log, save)
    print(report.text(record))
    if chosen.output:
        paths = report.write(record, chosen.output)
        if importlib.util.find_spec("matplotlib"):
            from benchmarks import figures

            paths += figures.draw(record["rows"], chosen.output)
        print("Written:", *paths, file=sys.stderr)


if __name__ == "__main__":
    main()
