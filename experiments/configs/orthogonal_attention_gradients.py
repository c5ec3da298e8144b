"""Gradients of transformers of 6 to 96 blocks, block by block, with free or orthogonal query, key,
value and output kernels: at the start, and after 50 steps of Adam under the constraint.

  python scripts/prepare_data.py --dataset=cifar10
  python experiments/run.py --config=experiments/configs/orthogonal_attention_gradients.py

Pre-norm blocks, and post-norm ones, whose gradients at the start are larger near the output (Xiong
et al. 2020, arXiv:2002.04745).
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
