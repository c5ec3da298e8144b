"""Persistent subspace orthogonality (arXiv:2508.02882), Fig. 3: how much of the space may be left
free? Test accuracy against k, the dimension of the part that is not isometric, of width 100.

  python experiments/run.py --config=experiments/configs/pso_k.py
  python scripts/prepare_data.py --dataset=mnist
  python experiments/run.py --config=experiments/configs/pso_k.py:full

The first: depth 50, digits that ship in a package; "full": depth 100, MNIST.
"""

from experiments.configs import pso_depth

# "block" needs two hidden units for each dimension it keeps: k is at least half the width.
KS = {"projection": (5, 20, 50, 80, 95, 100), "block": (50, 60, 80, 95, 100)}
SIZES = {"small": ("mnist_5k", 50, 2, 310), "full": ("mnist", 100, 5, 9360)}


def get_config(size="small"):
    data, depth, seeds, steps = SIZES[size]
    c = pso_depth.base(data, seeds, steps, vmap_seeds=size == "full")
    c.model.depth = depth
    c.against = "model.k"
    c.arms = {
        f"{block}, {k}": {"model": {"block": block, "k": k}} for block, ks in KS.items() for k in ks
    }
    return c
