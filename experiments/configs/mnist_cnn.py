"""Convolutional network with orthogonal kernels, of convolutions [3 * 3 * in, out] too, on MNIST.

  python scripts/prepare_data.py --dataset=mnist
  python experiments/run.py --config=experiments/configs/mnist_cnn.py

Time: 2 minutes on two cores, with compilation and figures.
Result: test accuracy 99.15 % (seed 0); orthogonality error below 3e-6.
"""

from ml_collections import ConfigDict


def get_config():
    c = ConfigDict()
    c.seed = 0
    c.steps = 1404  # 3 epochs of 468 batches
    c.batch_size = 128
    c.eval_batch_size = 1000
    c.log_every = 20
    c.eval_every = 234
    c.checkpoint_every = 468
    c.checkpoints_kept = 2
    c.patience = 0
    c.label_smoothing = 0.0
    c.parallel = "jit"
    c.mesh = {"data": -1, "fsdp": 1, "tensor": 1, "rules": ((".*", "auto"),)}
    c.data = {"name": "mnist", "dir": "", "augment": "none"}
    c.model = {
        "name": "cnn",
        "channels": (16, 32),
        "depth": 2,
        "width": 64,
        "activation": "relu",
        "kernel_init": "orthogonal",
    }
    c.optimizer = {
        "name": "adam",
        "lr": 3e-3,
        "schedule": "cosine",
        "period": 0,
        "warmup_steps": 0,
        "momentum": 0.9,
        "b1": 0.9,
        "b2": 0.999,
        "weight_decay": 0.0,
        "clip_norm": 0.0,
    }
    c.constraint = {
        "map": "cayley",
        "rebase_every": 100,
        "rules": ((r"(conv_\d+|dense)/kernel", "orthogonal"), (".*", "free")),
    }
    c.arms = {}
    return c
