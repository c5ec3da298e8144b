"""MNIST pixel by pixel, 784 time steps, in rows and in a random order.

  python scripts/prepare_data.py --dataset=mnist
  python experiments/run.py --config=experiments/configs/mnist_pixels.py

Lezcano-Casado and Martinez-Rubio 2019, arXiv:1901.08428: expRNN of width 170 has 98.0 % in rows
and 94.9 % permuted. Optimizer, start and change of base (dtriv, every 100 steps) are those of its
code; pixels are standardized here. For a GPU. Not yet run at full size; mnist_pixels_short.py is a
smaller version for two cores.
"""

from ml_collections import ConfigDict


def get_config():
    c = ConfigDict()
    c.seed = 0
    c.steps = 32_760  # 70 epochs of 468 batches
    c.batch_size = 128
    c.eval_batch_size = 1000
    c.log_every = 50
    c.eval_every = 468
    c.checkpoint_every = 468
    c.checkpoints_kept = 2
    c.patience = 0
    c.label_smoothing = 0.0
    c.parallel = "jit"
    c.mesh = {"data": -1, "fsdp": 1, "tensor": 1, "rules": ((".*", "auto"),)}
    c.data = {"name": "mnist", "dir": "", "augment": "none"}
    c.model = {
        "name": "pixel_rnn",
        "cell": "orthogonal",
        "width": 170,
        "start": "cayley",
        "permute": False,
        "pool": 1,
    }
    c.optimizer = {
        "name": "rmsprop",
        "lr": 7e-4,
        "schedule": "constant",
        "period": 0,
        "warmup_steps": 0,
        "momentum": 0.9,
        "b1": 0.9,
        "b2": 0.99,
        "weight_decay": 0.0,
        "clip_norm": 0.0,
    }
    c.constraint = {
        "map": "exponential",
        "rebase_every": 100,
        "lr_factor": 0.1,
        "rules": (("layer/cell/kernel", "orthogonal"), (".*", "free")),
    }
    c.arms = {"rows": {}, "permuted": {"model": {"permute": True}}}
    return c
