"""Gradients of transformers of 6 to 96 blocks, block by block, with free or orthogonal query, key,
value and output kernels: at the start, and after 50 steps of Adam under the constraint.

  python scripts/prepare_data.py --dataset=cifar10
  python experiments/run.py --config=experiments/configs/orthogonal_attention_gradients.py

Pre-norm blocks, and post-norm ones, whose gradients at the start are larger near the output (Xiong
et al. 2020, arXiv:2002.04745).

Time: 13 minutes on one core.
Result, log |grad| of the last block less that of the first, two seeds:

                                       depth 6         24             96
post-norm, free, at the start          -0.15 ± 0.13    -0.23 ± 0.69   0.64 ± 0.65
post-norm, orthogonal, at the start    -0.27 ± 0.04    -0.65 ± 0.03   -2.00 ± 1.10
pre-norm, free, at the start           -0.61 ± 0.14    -1.52 ± 0.07   -2.44 ± 0.04
pre-norm, orthogonal, at the start     -0.69 ± 0.17    -1.61 ± 0.46   -2.21 ± 0.24
post-norm, free, after 50 steps        0.69 ± 0.56     4.23 ± 3.00    21.12 ± 0.38
post-norm, orthogonal, after 50 steps  0.64 ± 0.13     5.57 ± 0.18    17.41 ± 3.31
pre-norm, free, after 50 steps         -0.32 ± 0.38    -1.27 ± 0.62   -2.16 ± 1.38
pre-norm, orthogonal, after 50 steps   -0.33 ± 0.16    -0.88 ± 0.14   -1.50 ± 0.45

Where the normalization is decides. Orthogonal attention kernels change little, and do not save deep
post-norm transformers, whose first blocks learn nothing any more after 50 steps.
"""

from ml_collections import ConfigDict

from orthojax import MatrixAxes

ATTENTION = r"hidden/layers/(query|key|value|out)/kernel"


def get_config():
    c = ConfigDict()
    c.seeds = (0, 1)
    c.batch_size = 8
    c.data = {"name": "cifar10", "dir": ""}
    c.model = {
        "name": "deep_transformer",
        "patch": 4,
        "width": 64,
        "depth": 6,
        "heads": 4,
        "hidden": 128,
        "kernel_init": "lecun_normal",
        "multiplier": 1.0,
        "placement": "pre",
        "remat": "elementwise",
    }
    c.constraint = {"map": "none", "rules": ((ATTENTION, MatrixAxes(-2, -1)), (".*", "free"))}
    c.study = {
        "name": "block_gradients",
        "depths": (6, 12, 24, 48, 96),
        "kernels": ATTENTION,
        "steps": 50,
        "lr": 1e-3,
    }
    orthogonal = {"constraint": {"map": "cayley"}}
    post = {"model": {"placement": "post"}}
    c.arms = {
        "pre-norm, free": {},
        "pre-norm, orthogonal": orthogonal,
        "post-norm, free": post,
        "post-norm, orthogonal": post | orthogonal,
    }
    return c
