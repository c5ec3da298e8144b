"""Rank of the Gram matrices of random batches of four sets of images, in float32 and float64.

  python scripts/prepare_data.py --dataset=cifar10
  python experiments/run.py --config=experiments/configs/bn_rank.py

Table D1 of arXiv:2310.02012. Sets that are not prepared are left out, and measured when the same
command is run again after they are.

Time: 30 s on two busy cores for two of the sets.
Result, means of 20 batches: all are of full rank in float64, and in float32 up to n = 200. At 500
float32 has 346.6 (3.2) on MNIST and 463.4 (4.7) on CIFAR-10: its tolerance, not the data. Mean
cosine of two images, normalized: .29 and .012.
"""

from ml_collections import ConfigDict


def get_config():
    c = ConfigDict()
    c.data = {"dir": ""}
    c.study = {
        "name": "gram_rank",
        "datasets": ("mnist", "fashion_mnist", "cifar10", "cifar100"),
        "batch_sizes": (10, 50, 100, 200, 500),
        "batches": 20,
    }
    c.arms = {}
    return c
