"""Gradients of batch-normalized linear networks with and without the mean, depth 5 to 1,000.

  python scripts/prepare_data.py --dataset=cifar10
  python experiments/run.py --config=experiments/configs/bn_mean_reduction.py

Figure G6 of arXiv:2310.02012: as bn_explosion with orthogonal weights. The theory leaves the mean;
networks that are trained subtract it.

Time: 60 s on two busy cores.
Result: no difference. With the mean .31 at depth 5 to .42 (.04) at 1,000, without .31 to .40 (.03).
"""

from experiments.configs import bn_explosion


def get_config():
    c = bn_explosion.get_config()
    c.arms = {"without the mean": {}, "with the mean": {"model": {"norm": "batch"}}}
    return c
