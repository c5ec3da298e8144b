"""How far is the training of a network of depth 200 from the arithmetic of its products?

  taskset -c 0 python scripts/benchmark_depth.py

Times, in one process and interleaved, one step of a real training (batch 128, width 100, digits
that ship in a package) and a chain of products [128, 100] x [100, 100], whose rate is what the
products of the step would take alone: three for each kernel, but two for that of the images, of
which no gradient is computed. Medians and, since other programs disturb in one direction only, the
shortest times; an epoch is the 468 steps of MNIST. Writes a table, and JSON to --output.
"""

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import jax.numpy as jnp
import numpy as np

from experiments import configuration, data, fitting, optimizers, training
from experiments.configs import bn_training, pso_depth
from orthojax.matrices import path_name

BATCH, WIDTH, STEPS = 128, 100, 468


def networks(depth):
    """{name: configuration} of what is timed."""
    found = {}
    for optimizer in ("sgd", "adam"):
        for block in ("shared", "projection"):
            c = pso_depth.base("mnist_5k", 1, 1)
            c.vmap_seeds = False
            c.model.update(pso_depth.model(block, depth))
            c.optimizer.name = optimizer
            found[f"PSO {block}, {optimizer}"] = c
        c = bn_training.base("mnist_5k", 1, 1)
        c.model.depth, c.batch_size, c.optimizer.name = depth, BATCH, optimizer
        found[f"BN tanh, {optimizer}"] = c
        c = c.copy_and_resolve_references()
        c.model.update({"norm": "none", "activation": "relu", "gain_exponent": 0.0})
        found[f"plain ReLU, {optimizer}"] = c
    return found


def multiply_adds(params):
    """Of the products of one step: three for each kernel and example, two where that is an image,
    of which no gradient is computed."""
    leaves = {path_name(p): x for p, x in jax.tree_util.tree_leaves_with_path(params)}
    products = lambda name: 2 if name.startswith("embed/") else 3
    return BATCH * sum(products(k) * x.size for k, x in leaves.items() if k.endswith("kernel"))


def timed(function, *args):
    began = time.perf_counter()
    result = jax.block_until_ready(function(*args))
    return time.perf_counter() - began, result


def measure(config, repeats):
    (config,) = configuration.arms(config).values()
    dataset = fitting.load_data(config)
    model = fitting.make_model(config, dataset)
    optimizer = optimizers.make_optimizer(config)
    state = jax.jit(lambda: training.init_state(model, optimizer, 0))()
    step = jax.jit(training.make_train_step(config, model, optimizer), donate_argnums=0)
    batch = jax.device_put(data.batch(dataset.train, BATCH, 0, 0, "none"))
    began = time.perf_counter()
    step = step.lower(state, *batch).compile()
    compile_seconds = time.perf_counter() - began

    kernels = jax.random.normal(jax.random.key(0), (200, WIDTH, WIDTH)) / WIDTH**0.5
    products = jax.jit(lambda x: jax.lax.scan(lambda x, w: (x @ w, None), x, kernels)[0])
    x = jnp.ones((BATCH, WIDTH))
    steps, alone = [], []
    for i in range(repeats + 2):
        product_seconds, _ = timed(products, x)
        step_seconds, (state, _) = timed(step, state, *batch)
        if i >= 2:
            steps.append(step_seconds)
            alone.append(product_seconds / kernels.size / BATCH)
    work = multiply_adds(state.params)
    return {
        "compile_seconds": compile_seconds,
        "step_ms": 1e3 * np.median(steps),
        "epoch_seconds": STEPS * float(np.median(steps)),
        "gflops": 2e-9 / np.median(alone),
        "ratio": float(np.median(steps) / np.median(alone) / work),
        "ratio_of_shortest": min(steps) / min(alone) / work,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, default=200, help="layers or blocks (default: 200)")
    parser.add_argument("--repeats", type=int, default=60, help="timed steps (default: 60)")
    parser.add_argument("--only", default="", help="networks whose name contains this")
    parser.add_argument("--output", type=Path, help="where to write the numbers as JSON")
    arguments = parser.parse_args()
    rows = {}
    print(f"{'':24}compile  step    epoch   products  of products: median, shortest")
    for name, config in networks(arguments.depth).items():
        if arguments.only not in name:
            continue
        row = rows[name] = measure(config, arguments.repeats)
        print(
            f"{name:24}{row['compile_seconds']:5.1f} s {row['step_ms']:5.1f} ms "
            f"{row['epoch_seconds']:5.1f} s {row['gflops']:5.0f} GFLOP/s   "
            f"{row['ratio']:.2f} {row['ratio_of_shortest']:.2f}",
            flush=True,
        )
    if arguments.output:
        device = jax.local_devices()[0].device_kind
        arguments.output.write_text(json.dumps({"device": device, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
