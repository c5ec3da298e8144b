"""Gradients of batch-normalized linear networks, depth 5 to 1,000: orthogonal against Gaussian.

  python scripts/prepare_data.py --dataset=cifar10
  python experiments/run.py --config=experiments/configs/bn_explosion.py

Figure 3 of Meterez, Joudaki, Orabona, Immer, Raetsch, Daneshmand 2023, arXiv:2310.02012: width and
batch size 100, CIFAR-10, normalization without the mean, no biases, 10 seeds of weights and batch.

Time: 80 s on two cores that others used too.
Result, log |grad W_1|, mean and deviation over the seeds: orthogonal .31 (.06), .31, .33, .33, .40,
.44, .41, .40 (.03) at the eight depths; Gaussian .28, .38, .40, .57, .78, 1.3 (.3), 4.4 (.3),
10.3 (.8), and 9.9 (.9) over 40 seeds. The paper has .4 at all depths, and 1.7, 4.4, 10.2 from 200
on.
"""

from ml_collections import ConfigDict


def get_config():
    c = ConfigDict()
    c.seeds = tuple(range(10))
    c.batch_size = 100
    c.data = {"name": "cifar10", "dir": ""}
    c.model = {
        "name": "deep_mlp",
        "width": 100,
        "depth": 5,
        "activation": "identity",
        "norm": "batch_no_mean",
        "bias": False,
        "gain": 1.0,
        "gain_exponent": 0.0,
        "shaping": "none",
        "kernel_init": "orthogonal",
        "ends_init": "orthogonal",
    }
    c.study = {
        "name": "gradients",
        "along": "model.depth",
        "at": (5, 10, 20, 50, 100, 200, 500, 1000),
        "kernel": "hidden/layers/kernel",
        "distinct": 0,
        "measure": "log_norm",
    }
    c.arms = {"orthogonal": {}, "Gaussian": {"model": {"kernel_init": "xavier_normal"}}}
    return c
