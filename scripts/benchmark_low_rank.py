"""What OIALR's factored layers save: a training step at several ranks against the dense one.

    python scripts/benchmark_low_rank.py [--width=1024] [--rows=512] [--json=low_rank.json]

`--layers` dense layers of `--width`, ReLU and AdamW, on `--rows` rows; jitted, donated. In each
round the dense and the factored steps take turns, so that what else the machine does falls on all;
medians over the rounds, ratios within rounds. Memory: bytes of params, gradients and the
optimizer's state (bases included), and the peak that the compiler plans. The last rows are whole
changes of bases, compared with one dense step.
"""

import json
import os
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from flax import nnx

import orthojax
import orthojax.nn

_WIDTH = flags.DEFINE_integer("width", 1024, "Width of the layers.", lower_bound=2)
_LAYERS = flags.DEFINE_integer("layers", 3, "Number of layers.", lower_bound=1)
_ROWS = flags.DEFINE_integer("rows", 512, "Rows of a batch.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 15, "Rounds of measurement.", lower_bound=1)
_RANKS = flags.DEFINE_list("ranks", ["1", "0.69", "0.5", "0.25", "0.125"], "Parts of the width.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the products.")
_JSON = flags.DEFINE_string("json", None, "File for the rows.")


class MLP(nnx.Module):
    """Dense layers of one width."""

    def __init__(self, width, layers, dtype, rngs):
        self.layers = nnx.List(
            [nnx.Linear(width, width, dtype=dtype, rngs=rngs) for _ in range(layers)]
        )

    def __call__(self, x):
        for layer in self.layers:
            x = nnx.relu(layer(x))
        return x


def make_step(graph, tx):
    """(params, bases, opt_state, x) -> (params, opt_state)."""

    def step(params, bases, opt_state, x):
        def loss(params):
            module = nnx.merge(graph, orthojax.bind(params, bases), copy=True)
            return jnp.mean((orthojax.nn.low_rank(module)(x) - 1) ** 2)

        updates, opt_state = tx.update(jax.grad(loss)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    return jax.jit(step, donate_argnums=(0, 2))


def size(*trees):
    """Bytes of all arrays."""
    return sum(x.nbytes for x in jax.tree.leaves(trees))


def case(name, step, params, bases, opt_state, x):
    """A row with what is known without running, and the function that runs one step."""
    program = step.lower(params, bases, opt_state, x).compile()
    memory = program.memory_analysis()
    cost = program.cost_analysis() or {}
    report = orthojax.size_report(params, bases)
    row = {
        "case": name,
        "state_bytes": size(params, params, bases, opt_state),
        "flops": cost.get("flops"),
        "peak_bytes": memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes,
        **{name: report[name] for name in ("trainable", "stored", "served")},
    }
    state = [params, opt_state]

    def run():
        began = time.perf_counter()
        state[:] = program(state[0], bases, state[1], x)
        jax.block_until_ready(state)
        return time.perf_counter() - began

    return row, run


def main(_):
    """Measures and prints."""
    tx, dtype = optax.adamw(1e-4), jnp.dtype(_DTYPE.value)
    x = jax.random.normal(jax.random.key(1), (_ROWS.value, _WIDTH.value))
    module = MLP(_WIDTH.value, _LAYERS.value, dtype, nnx.Rngs(0))
    graph, params = nnx.split(module)
    params = nnx.to_pure_dict(params)
    step = make_step(graph, tx)
    copy = lambda tree: jax.tree.map(jnp.copy, tree)
    cases = [case("dense", step, copy(params), {}, tx.init(params), x)]
    changes = []
    for part in map(float, _RANKS.value):
        method = orthojax.OIALR(delay=0, every=1, rank=orthojax.ranks.fixed(part))
        low = method.refresh(0, params, {}, tx.init(params), tx)
        jax.block_until_ready(method.refresh(1, *low, tx))
        began = time.perf_counter()
        jax.block_until_ready(method.refresh(2, *low, tx))
        changes.append((part, time.perf_counter() - began))
        low_params, bases, opt_state = copy(low)
        cases.append(case(f"rank {part:g}", step, low_params, bases, opt_state, x))
    for _, run in cases:
        run()
    seconds = np.array([[run() for _, run in cases] for _ in range(_ROUNDS.value)])
    ratios = np.median(seconds / seconds[:, :1], axis=0)
    rows = [row for row, _ in cases]
    for row, median, ratio in zip(rows, np.median(seconds, axis=0), ratios, strict=True):
        row |= {"seconds": float(median), "time_ratio": float(ratio)}
        for name in ("state_bytes", "peak_bytes", "flops"):
            row[f"{name}_ratio"] = row[name] / rows[0][name] if row[name] else None

    device = jax.devices()[0].device_kind
    print(
        f"{_LAYERS.value} layers of {_WIDTH.value}, {_ROWS.value} rows, {_DTYPE.value}, "
        f"{device}, jax {jax.__version__}"
    )
    names = (
        "trainable",
        "stored",
        "flops_ratio",
        "time_ratio",
        "state_bytes_ratio",
        "peak_bytes_ratio",
    )
    print(f"{'':12}" + "".join(f"{name:>19}" for name in (*names, "ms")))
    for row in rows:
        cells = "".join(f"{row[name]:19.3f}" for name in names)
        print(f"{row['case']:12}{cells}{1e3 * row['seconds']:19.2f}")
    for part, taken in changes:
        print(f"change of bases at rank {part:g}: {taken / rows[0]['seconds']:.1f} dense steps")
    if _JSON.value:
        record = {"device": device, "jax": jax.__version__, "rows": rows, "changes": changes}
        Path(_JSON.value).write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
