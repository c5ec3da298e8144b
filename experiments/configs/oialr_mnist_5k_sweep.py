"""OIALR's cutoff and delay on 5,000 digits of MNIST: accuracy against stored size.

  python scripts/sweep.py run --config=experiments/configs/oialr_mnist_5k_sweep.py --workers=2

frontier.png joins the points that no smaller one beats. The last point is dense.
"""

from experiments.configs import oialr_arms
from experiments.sweeps.points import chained, grid, product


def get_config():
    c = oialr_arms.base()
    c.data.name = "mnist_5k"
    c.seeds = ()
    c.fork_at = 0
    c.arms = {}
    c.steps = 400  # 10 epochs of 40 batches
    c.batch_size = 100
    c.log_every = 20
    c.eval_every = 40
    c.checkpoint_every = 200
    c.model.width = 128
    c.oialr.every = 40
    return c


def get_sweep():
    dense = grid("oialr.face", ["none"])
    cutoffs = grid("oialr.rank_value", [0.4, 0.6, 0.8, 0.9])
    delays = grid("oialr.delay", [0.1, 1 / 3, 2 / 3])
    return chained(product(delays, cutoffs), dense)
