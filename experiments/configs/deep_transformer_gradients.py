"""Gradients of pre-norm transformers of 12 to 200 blocks at initialization.

  python scripts/prepare_data.py --dataset=cifar10
  python experiments/run.py --config=experiments/configs/deep_transformer_gradients.py

Not of a paper: the question of arXiv:2310.02012 asked of the values' kernels, orthogonal or not,
and of branches scaled by 1/10.

Time: 95 s on two cores.
Result, log |grad W_1|, values of the first block, at 12, 50 and 200 blocks, 3 seeds: LeCun .54,
.57, .60; orthogonal .65, .75, .91; with a tenth -1.9, -1.7, -1.6 and -1.9, -1.7, -1.4; deviations
.1 to .4. Pre-norm keeps gradients at any depth, whatever the kernels.
"""

from experiments.configs import bn_explosion


def get_config():
    c = bn_explosion.get_config()
    c.seeds = (0, 1, 2)
    c.batch_size = 8
    c.model = {
        "name": "deep_transformer",
        "patch": 4,
        "width": 64,
        "depth": 12,
        "heads": 4,
        "hidden": 128,
        "kernel_init": "lecun_normal",
        "multiplier": 1.0,
        "placement": "pre",
        "remat": "elementwise",
    }
    c.study.at = (12, 50, 200)
    c.study.kernel = "hidden/layers/value/kernel"
    arms = {
        "LeCun": {},
        "orthogonal": {"kernel_init": "orthogonal"},
        "LeCun, a tenth": {"multiplier": 0.1},
        "orthogonal, a tenth": {"kernel_init": "orthogonal", "multiplier": 0.1},
    }
    c.arms = {name: {"model": own} if own else {} for name, own in arms.items()}
    return c
