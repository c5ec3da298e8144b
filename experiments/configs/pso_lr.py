"""Persistent subspace orthogonality (arXiv:2508.02882), Fig. 5: Kaiming against shared orthogonal
weights, type A, at depths 5 and 50; test accuracy against the learning rate.

  python experiments/run.py --config=experiments/configs/pso_lr.py
  python scripts/prepare_data.py --dataset=mnist
  python experiments/run.py --config=experiments/configs/pso_lr.py:full

The paper has 1e-6 to 1e-4 and 20 epochs, as "full"; 1e-3 is added. The first: 16 arms of two
seeds, 2 minutes of CPU. Seen there at 1e-6, 1e-5, 1e-4, 1e-3 and depth 50: Kaiming 10, 22, 55, 10
%; shared 55, 87, 91, 91 %.
"""

from experiments.configs import pso_depth

SIZES = {"small": ("mnist_5k", 2, 310), "full": ("mnist", 5, 9360)}


def get_config(size="small"):
    data, seeds, steps = SIZES[size]
    c = pso_depth.base(data, seeds, steps, vmap_seeds=size == "full")
    c.against = "optimizer.lr"
    c.arms = {
        f"{name}, {depth} layers, {lr:.0e}": {
            "model": pso_depth.model(name, depth),
            "optimizer": {"lr": lr},
        }
        for name in ("Kaiming", "shared")
        for depth in (5, 50)
        for lr in (1e-6, 1e-5, 1e-4, 1e-3)
    }
    return c
