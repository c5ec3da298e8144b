"""Gradients of convolutional networks of 12 to 200 blocks at initialization, plain and residual.

  python scripts/prepare_data.py --dataset=cifar10
  python experiments/run.py --config=experiments/configs/deep_cnn_gradients.py

Not of a paper: the question of arXiv:2310.02012 asked of ReLU blocks of two 3x3 convolutions, with
the delta-orthogonal kernels of Xiao et al. 2018, arXiv:1806.05393.

Time: 4 min on two busy cores.
Result, log |grad W_1|, first kernel of the first block, at 12, 50 and 200 blocks, 3 seeds:

  plain: He -1.8, -2.6, -7.5; delta, BN 1.5, 8.3, 35.9; shared .10, .10, .10
  residual: He 3.6, 16.2, 64.9; delta 3.3, 10.8, 40.7; delta, BN 1.4, 2.1, 2.8;
    projection -6.9, -16.9, -17.0

Gradients of plain He networks are smallest at their end, -16 at 200: their inputs have become one.
Those of projections are small as the kernels see only what these have already removed.
"""

from experiments.configs import bn_explosion


def get_config():
    c = bn_explosion.get_config()
    c.seeds = (0, 1, 2)
    c.batch_size = 8
    c.model = {
        "name": "deep_cnn",
        "width": 16,
        "depth": 12,
        "activation": "relu",
        "norm": "none",
        "residual": False,
        "weights": "he_normal",
        "remat": "elementwise",
    }
    c.study.at = (12, 50, 200)
    c.study.kernel = "hidden/layers/inner/kernel"
    arms = {
        "plain, He": {},
        "plain, delta, BN": {"weights": "delta_orthogonal", "norm": "batch"},
        "plain, shared": {"weights": "shared"},
        "residual, He": {"residual": True},
        "residual, delta": {"residual": True, "weights": "delta_orthogonal"},
        "residual, delta, BN": {
            "residual": True,
            "weights": "delta_orthogonal",
            "norm": "batch",
        },
        "residual, projection": {"residual": True, "weights": "projection"},
    }
    c.arms = {name: {"model": own} if own else {} for name, own in arms.items()}
    return c
