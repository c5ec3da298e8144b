"""Gradients where images of the batch are repeated, depth 5 to 1,000.

  python scripts/prepare_data.py --dataset=cifar10
  python experiments/run.py --config=experiments/configs/bn_degenerate.py

Figure 2 of arXiv:2310.02012, which does not say how many images are repeated: as bn_explosion with
orthogonal weights, and r different images of 100.

Time: 80 s on two busy cores.
Result, log |grad W_1| at depth 1,000: r = 100 .40, 99 .42, 90 1.0, 50 6.1, 25 17.0, 20 22.6,
10 54.3. It grows with depth as soon as rank is missing. The paper has about 29.
"""

from experiments.configs import bn_explosion


def get_config():
    c = bn_explosion.get_config()
    c.arms = {f"{r} of 100": {"study": {"distinct": r}} for r in (100, 99, 90, 50, 25, 20, 10)}
    return c
