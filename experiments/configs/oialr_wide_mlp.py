"""What OIALR saves: three hidden layers of width 1024 on 5,000 digits of MNIST, dense against
factored from one dense trunk. Look at results.csv and timing.jsonl.

  python experiments/run.py --config=experiments/configs/oialr_wide_mlp.py
"""

from ml_collections import ConfigDict


def get_config():
    c = ConfigDict()
    c.seed = 0
    c.steps = 600  # 75 epochs of 8 batches
    c.fork_at = 100
    c.batch_size = 500
    c.eval_batch_size = 1000
    c.log_every = 20
    c.eval_every = 100
    c.checkpoint_every = 300
    c.checkpoints_kept = 2
    c.patience = 0
    c.label_smoothing = 0.0
    c.parallel = "jit"
    c.mesh = {"data": -1, "fsdp": 1, "tensor": 1, "rules": ((".*", "auto"),)}
    c.data = {"name": "mnist_5k", "dir": "", "augment": "none"}
    c.model = {
        "name": "mlp",
        "width": 1024,
        "depth": 3,
        "activation": "relu",
        "kernel_init": "he_normal",
    }
    c.optimizer = {
        "name": "adamw",
        "lr": 5e-4,
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
        "delay": 1 / 6,
        "every": 100,
        "rank_rule": "fixed",
        "rank_value": 0.25,
        "rewarm": 0,
        "rules": ((r"(embed|hidden_\d+)/kernel", "low_rank"), (".*", "dense")),
        "keep_first": False,
        "keep_last": False,
        "open": 1.0,
        "max_drop": 1.0,
        "floor": 0.0,
        "grow": 0,
        "stability_every": 0,
        "control": "none",
    }
    c.arms = {"dense": {"oialr": {"face": "none"}}, "OIALR": {}}
    return c
