"""Gradients of pre-norm transformers of 12 to 200 blocks at initialization.

  python scripts/prepare_data.py --dataset=cifar10
  python experiments/run.py --config=experiments/configs/deep_transformer_gradients.py

Not of a paper: the question of arXiv:2310.02012 asked of the values' kernels, orthogonal or not,
and of branches scaled by 1/10.
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
