"""OIALR (Coquelin et al. 2024, arXiv:2401.08505) on a small ViT, CIFAR-10: the same as
oialr_cifar10_minivit, for two cores. From one dense trunk, dense and low-rank training.

  python scripts/prepare_data.py --dataset=cifar10
  python experiments/run.py --config=experiments/configs/oialr_cifar10_minivit_small.py

Result, seeds 0, 1, 2: dense 61.0, 61.8, 61.0 %, test loss 1.31, 1.28, 1.30; OIALR 61.3, 60.6, 60.9
%, test loss 1.13, 1.12, 1.13, with 9.9 % trained and 69 % stored. Time: 22 minutes a seed on one
idle core.
"""

from ml_collections import ConfigDict


def get_config():
    c = ConfigDict()
    c.seed = 0
    c.seeds = (0, 1, 2)
    c.steps = 4680  # 12 epochs of 390 batches
    c.fork_at = 1560
    c.batch_size = 128
    c.eval_batch_size = 1000
    c.log_every = 65
    c.eval_every = 390
    c.checkpoint_every = 390
    c.checkpoints_kept = 2
    c.patience = 0
    c.label_smoothing = 0.1
    c.parallel = "jit"
    c.mesh = {"data": -1, "fsdp": 1, "tensor": 1, "rules": ((".*", "auto"),)}
    c.data = {"name": "cifar10", "dir": "", "augment": "none"}
    c.model = {
        "name": "vit",
        "patch": 8,
        "width": 128,
        "depth": 6,
        "heads": 4,
        "hidden": 512,
        "qkv_bias": False,
        "dropout": 0.0,
    }
    c.optimizer = {
        "name": "adamw",
        "lr": 1e-3,
        "schedule": "cosine",
        "period": 0,
        "warmup_steps": 390,
        "momentum": 0.9,
        "b1": 0.9,
        "b2": 0.999,
        "weight_decay": 0.1,
        "clip_norm": 5.0,
    }
    c.constraint = {"map": "none", "rebase_every": 0, "rules": ((".*", "free"),)}
    c.oialr = {
        "face": "factored",
        "delay": 1 / 3,
        "every": 156,
        # A tenth of all numbers is trained in the end; there slowly, since a network this short of
        # training needs its rank.
        "rank_rule": "fixed",
        "rank_value": 0.462,
        "rewarm": 0,
        "rules": ((r"block_\d+/.*kernel", "low_rank"), (".*", "dense")),
        "keep_first": False,
        "keep_last": False,
        "open": 1.0,
        "max_drop": 0.12,
        "floor": 0.0,
        "grow": 0,
        "stability_every": 0,
        "control": "none",
    }
    c.arms = {"dense": {"oialr": {"face": "none"}}, "OIALR": {}}
    return c
