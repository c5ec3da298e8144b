"""OIALR (Coquelin et al. 2024, arXiv:2401.08505) on a CNN, MNIST: from one dense trunk, dense and
low-rank training; the stability of the bases is logged.

  python scripts/prepare_data.py --dataset=mnist
  python experiments/run.py --config=experiments/configs/oialr_mnist_cnn.py
"""

from ml_collections import ConfigDict


def get_config():
    c = ConfigDict()
    c.seed = 0
    c.seeds = (0, 1, 2)
    c.steps = 936  # 2 epochs of 468 batches
    c.fork_at = 468
    c.batch_size = 128
    c.eval_batch_size = 1000
    c.log_every = 26
    c.eval_every = 156
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
        "width": 256,
        "activation": "relu",
        "kernel_init": "he_normal",
    }
    c.optimizer = {
        "name": "adamw",
        "lr": 2e-3,
        "schedule": "cosine",
        "period": 0,
        "warmup_steps": 0,
        "momentum": 0.9,
        "b1": 0.9,
        "b2": 0.999,
        "weight_decay": 1e-2,
        "clip_norm": 0.0,
    }
    c.constraint = {"map": "none", "rebase_every": 0, "rules": ((".*", "free"),)}
    c.oialr = {
        "face": "factored",
        "delay": 1 / 2,
        "every": 78,
        "rank_rule": "budget",
        "rank_value": 0.13,
        "rewarm": 0,
        # The last convolution and the dense layer, which hold 98 % of the numbers.
        "rules": (("(conv_3|dense)/kernel", "low_rank"), (".*", "dense")),
        "keep_first": False,
        "keep_last": False,
        "open": 1.0,
        "max_drop": 0.5,
        "floor": 0.0,
        "grow": 0,
        "stability_every": 26,
        "control": "none",
    }
    c.arms = {"dense": {"oialr": {"face": "none"}}, "OIALR": {}}
    return c
