"""OIALR (Coquelin et al. 2024, arXiv:2401.08505) on the paper's mini-ViT, CIFAR-10: 42.7 M
parameters, 300 epochs. For a GPU or TPU; not run yet: oialr_cifar10_minivit_small is for two cores.

  python scripts/prepare_data.py --dataset=cifar10
  python experiments/run.py --config=experiments/configs/oialr_cifar10_minivit.py

Settings are those of the authors' repository (Helmholtz-AI-Energy/OIALR, configs of the mini-ViT):
delay 2,500 of 14,700 steps, a change every 500, cutoff 0.15, last layers first, at most half a rank
a change, at least 1 %. The paper reports 85.17 % dense and 86.33 % with tuned settings at about
10 % trainable; those settings are not published.
"""

from ml_collections import ConfigDict


def get_config():
    c = ConfigDict()
    c.seed = 0
    c.steps = 14700  # 300 epochs of 49 batches, to the nearest
    c.fork_at = 2500
    c.batch_size = 1024
    c.eval_batch_size = 1000
    c.log_every = 50
    c.eval_every = 490
    c.checkpoint_every = 490
    c.checkpoints_kept = 2
    c.patience = 0
    c.label_smoothing = 0.1
    c.parallel = "jit"
    c.mesh = {"data": -1, "fsdp": 1, "tensor": 1, "rules": ((".*", "auto"),)}
    c.data = {"name": "cifar10", "dir": "", "augment": "crop_flip"}
    c.model = {
        "name": "vit",
        "patch": 8,
        "width": 768,
        "depth": 6,
        "heads": 6,
        "hidden": 3072,
        "qkv_bias": False,
        "dropout": 0.0,
    }
    c.optimizer = {
        "name": "adamw",
        "lr": 3e-4,
        "schedule": "cosine",
        "period": 0,
        "warmup_steps": 490,
        "momentum": 0.9,
        "b1": 0.9,
        "b2": 0.999,
        "weight_decay": 1e-2,
        "clip_norm": 5.0,
    }
    c.constraint = {"map": "none", "rebase_every": 0, "rules": ((".*", "free"),)}
    c.oialr = {
        "face": "factored",
        "delay": 2500 / 14700,
        "every": 500,
        "rank_rule": "cutoff",
        "rank_value": 0.15,
        "rewarm": 0,
        "rules": ((r"block_\d+/.*kernel", "low_rank"), (".*", "dense")),
        "keep_first": False,
        "keep_last": False,
        "open": 0.1,
        "max_drop": 0.5,
        "floor": 0.01,
        "grow": 0,
        "stability_every": 490,
        "control": "none",
    }
    c.arms = {"dense": {"oialr": {"face": "none"}}, "OIALR": {}}
    return c
