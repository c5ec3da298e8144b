"""Times of many programs that take turns in one process."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np


class Skipped(Exception):
    """Raised by `Case.make` with the reason why a case is not measured."""


class Program(NamedTuple):
    """What `Case.make` returns, ready to run.

    Attributes:
      call: runs once, until its result is there.
      measures: errors and whatever else is known once it ran, {name: JSON value}.
      compile_seconds: to trace and compile, before the first call.
      memory_bytes: peak that the compiler plans, arguments included; None if it does not say.
    """

    call: Callable[[], None]
    measures: Callable[[], dict[str, Any]] = dict
    compile_seconds: float = 0.0
    memory_bytes: int | None = None


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
      group: what is timed, e.g. "maps".
      method: the algorithm.
      implementation: whose: "orthojax", "jax", "optax", "torch", "geotorch", ...
      shape: [*batch, n, p] of the matrices.
      make: builds the program; may raise.
      variant: which form of the method.
      dtype: of the weights.
      unit: name of the unit of time that this row is for all others of its measurement.
      facts: further columns.
    """

    group: str
    method: str
    implementation: str
    shape: tuple[int, ...]
    make: Callable[[], Program]
    variant: str = ""
    dtype: str = "float32"
    unit: str | None = None
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)


class Effort(NamedTuple):
    """How long a measurement may take.

    Attributes:
      rounds: in each of which every program takes its turn.
      seconds: after which a program sits out the other rounds, if it took part in three.
      sample_seconds: at least, of one turn: short programs are called several times.
    """

    rounds: int
    seconds: float
    sample_seconds: float = 2e-2


LEAST_TURNS = 3


def _timed(call, calls=1):
    began = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - began) / calls


def _made(case, row):
    """The program of `case` after its first call, or None; what happened goes into `row`."""
    try:
        program = case.make()
        row["first_call_seconds"] = program.compile_seconds + _timed(program.call)
    except Skipped as reason:
        row["skipped"] = str(reason)
        return None
    except Exception as error:  # A peer that cannot do this, or lacks the memory, is a result.
        row["error"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        return None
    row["compile_seconds"] = program.compile_seconds or None
    row["memory_bytes"] = program.memory_bytes
    return program


def quartiles(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles, as a JSON object."""
    q1, median, q3 = np.percentile(values, [25, 50, 75])
    return {"median": float(median), "q1": float(q1), "q3": float(q3)}


def measure(cases: Sequence[Case], effort: Effort) -> list[dict[str, Any]]:
    """Rows of medians and quartiles of the seconds of a call, and of their ratios to each unit.

    All cases take turns, in another order in each round; a ratio is one within a round, so that
    what else the machine does falls on both.
    """
    rows, programs = [], []
    for case in cases:
        kept = ("group", "method", "variant", "implementation", "shape", "dtype")
        rows.append({name: getattr(case, name) for name in kept} | case.facts)
        programs.append(_made(case, rows[-1]))
    running = [i for i, program in enumerate(programs) if program is not None]
    calls = {}
    for i in running:
        once = min(_timed(programs[i].call) for _ in range(2))
        calls[i] = max(1, math.ceil(effort.sample_seconds / max(once, 1e-7)))

    samples = [{} for _ in cases]  # {round: seconds}
    order = np.random.default_rng(0)
    for turn in range(effort.rounds):
        for i in order.permutation(running):
            spent = sum(samples[i].values()) * calls[i]
            is_done = spent > effort.seconds and len(samples[i]) >= LEAST_TURNS
            if cases[i].unit is None and is_done:
                continue
            if calls[i] > 1:  # What the program before has left in the caches is not its own.
                programs[i].call()
            samples[i][turn] = _timed(programs[i].call, calls[i])

    units = {cases[i].unit: samples[i] for i in running if cases[i].unit}
    for i in running:
        rows[i]["seconds"] = quartiles(list(samples[i].values()))
        rows[i]["turns"] = len(samples[i])
        rows[i]["ratio"] = {
            unit: quartiles([s / own[turn] for turn, s in samples[i].items()])
            for unit, own in units.items()
        }
        rows[i] |= programs[i].measures()
    return rows


def planned_bytes(compiled: Any) -> int | None:
    """The peak memory of a compiled program, arguments included, or None."""
    memory = compiled.memory_analysis()
    if memory is None:
        return None
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )


def jax_program(
    function: Callable[..., Any],
    carry: tuple,
    constants: tuple = (),
    *,
    donate: bool = False,
    first: Callable[[Any], None] | None = None,
    measures: Callable[[Any], dict[str, Any]] | None = None,
) -> Program:
    """The jitted function(*carry, *constants).

    With `donate` the carry is donated, and the result is the carry of the next call. `first` is
    shown the first result; `measures` maps the last one to what is known of it.
    """
    began = time.perf_counter()
    donated = tuple(range(len(carry))) if donate else ()
    compiled = jax.jit(function, donate_argnums=donated).lower(*carry, *constants).compile()
    compile_seconds = time.perf_counter() - began
    held = [carry, None]

    def call():
        result = jax.block_until_ready(compiled(*held[0], *constants))
        if held[1] is None and first is not None:
            first(result)
        held[1] = result
        if donate:
            held[0] = held[1]

    return Program(
        call,
        (lambda: measures(held[1])) if measures else dict,
        compile_seconds,
        planned_bytes(compiled),
    )


def product(shape: tuple[int, ...], dtype: str = "float32", unit: str | None = "jax") -> Case:
    """The unit: products of `shape` by [*batch, p, p], in full precision."""

    def make():
        key, other = jax.random.split(jax.random.key(0))
        x = jax.random.normal(key, shape, dtype)
        y = jax.random.normal(other, (*shape[:-2], shape[-1], shape[-1]), dtype)
        return jax_program(lambda x, y: jax.numpy.matmul(x, y, precision="highest"), (x, y))

    flops = 2 * math.prod(shape) * shape[-1]
    return Case("unit", "product", "jax", shape, make, "", dtype, unit, facts={"flops": flops})
