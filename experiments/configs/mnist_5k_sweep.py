"""Learning rate and map of an MLP with orthogonal hidden kernels, 5,000 digits of MNIST: a sweep of
twelve short runs.

  python scripts/sweep.py run --config=experiments/configs/mnist_5k_sweep.py --workers=2
"""

from experiments.configs import quickstart
from experiments.sweeps.points import grid, product


def get_config():
    c = quickstart.get_config()
    c.steps = 200
    c.log_every = 20
    c.eval_every = 40
    c.checkpoint_every = 100
    c.model.depth = 4
    c.model.width = 64
    c.arms = {}
    return c


def get_sweep():
    return product(
        grid("optimizer.lr", [1e-3, 3e-3, 1e-2]),
        grid("constraint.map", ["cayley", "none"]),
        grid("seed", [0, 1]),
    )
