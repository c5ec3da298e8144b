"""A small vision transformer on CIFAR-10 with orthogonal attention kernels, by rules alone, against
the unconstrained one.

  python scripts/prepare_data.py --dataset=cifar10
  python experiments/run.py --config=experiments/configs/vit_orthogonal_cifar10.py

Queries, keys and values of all heads are one kernel [width, 3 * width], which the rule sees as
three square matrices. The size is that of oialr_cifar10_minivit_small, for one epoch.

Time: 6 minutes on one core.
Result (seed 0, one epoch), test accuracy: orthogonal 45.6 %, free 45.5 %.
"""

from experiments.configs import oialr_cifar10_minivit_small
from orthojax import MatrixAxes


def get_config():
    c = oialr_cifar10_minivit_small.get_config()
    del c.oialr
    del c.fork_at
    c.seeds = (0,)
    c.steps = 390  # 1 epoch
    c.eval_every = 130
    c.checkpoint_every = 390
    c.checkpoints_kept = 1
    c.optimizer.warmup_steps = 39
    c.constraint = {
        "map": "none",
        "rebase_every": 100,
        "rules": (
            (r"block_\d+/attention/qkv/kernel", MatrixAxes(0, 1, blocks=3)),
            (r"block_\d+/attention/out/kernel", "orthogonal"),
            (".*", "free"),
        ),
    }
    c.arms = {"free": {}, "orthogonal": {"constraint": {"map": "cayley"}}}
    return c
