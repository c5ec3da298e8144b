"""Persistent subspace orthogonality (arXiv:2508.02882), Fig. 4: must the first and the last layer,
which change the dimension, be orthogonal too? Test accuracy against depth.

  python experiments/run.py --config=experiments/configs/pso_first_last.py
  python scripts/prepare_data.py --dataset=mnist
  python experiments/run.py --config=experiments/configs/pso_first_last.py:full

The other choice is Flax's default, LeCun normal. The first: 8 arms of two seeds, 140 s of CPU. Seen
there: orthogonal or not, the same within a point at both depths.
"""

from experiments.configs import pso_depth

ENDS = {"orthogonal": "orthogonal", "Gaussian": "lecun_normal"}
SIZES = {
    "small": ("mnist_5k", (5, 50), ("shared", "projection"), 2, 310),
    "full": ("mnist", (5, 20, 50, 100, 200), ("shared", "block", "projection"), 5, 9360),
}


def get_config(size="small"):
    data, depths, blocks, seeds, steps = SIZES[size]
    c = pso_depth.base(data, seeds, steps, vmap_seeds=size == "full")
    c.against = "model.depth"
    c.arms = {
        f"{block}, ends {name}, {depth}": {
            "model": pso_depth.model(block, depth) | {"ends_init": ends}
        }
        for block in blocks
        for name, ends in ENDS.items()
        for depth in depths
    }
    return c
