"""OIALR (Coquelin et al. 2024, arXiv:2401.08505) on ViT-B/16, ImageNet-2012: 86.6 M parameters, 90
epochs. For GPUs or TPUs; not run yet: docs/imagenet.md has what is known without the pictures.

  python scripts/prepare_data.py --dataset=imagenet2012 --raw_dir=<folder of the archives>
  python experiments/run.py --config=experiments/configs/oialr_imagenet_vitb16.py

The authors' configuration of this run (Helmholtz-AI-Energy/OIALR at e9e885d) is an empty file. Of
OIALR: a third of the steps at full rank, as the paper says; a change every 2,000 steps, as in their
configs/training/oialr_trainer.yaml; the rest as for their mini-ViT: cutoff 0.15, all kernels but
the head's, last layers first, at most half a rank a change, at least 1 %. The recipe is that of
Beyer, Zhai, Kolesnikov 2022 (arXiv:2205.01580, big_vision's vit_s16_i1k.py) for ViT-S/16, but for
their position embeddings and pooling: a weight decay of 1e-4 there, apart from the learning rate,
is 0.1 here.
"""

from ml_collections import ConfigDict

EPOCH = 1251  # Steps: 1,281,167 pictures in batches of 1,024.


def get_config():
    c = ConfigDict()
    c.seed = 0
    c.steps = 90 * EPOCH
    c.fork_at = 30 * EPOCH
    c.batch_size = 1024
    c.eval_batch_size = 1000
    c.log_every = 50
    c.eval_every = 5 * EPOCH
    c.checkpoint_every = EPOCH
    c.checkpoints_kept = 2
    c.patience = 0
    c.label_smoothing = 0.0
    c.parallel = "jit"
    c.mesh = {"data": -1, "fsdp": 1, "tensor": 1, "rules": ((".*", "auto"),)}
    c.data = {
        "name": "imagenet2012",
        "dir": "",
        "augment": "rand_augment",
        "size": 224,
        "magnitude": 10,
        "workers": 16,
        "mixup": 0.2,
    }
    c.model = {
        "name": "vit",
        "patch": 16,
        "width": 768,
        "depth": 12,
        "heads": 12,
        "hidden": 3072,
        "qkv_bias": True,
        "dropout": 0.0,
    }
    c.optimizer = {
        "name": "adamw",
        "lr": 1e-3,
        "schedule": "cosine",
        "period": 0,
        "warmup_steps": 10_000,
        "momentum": 0.9,
        "b1": 0.9,
        "b2": 0.999,
        "weight_decay": 0.1,
        "clip_norm": 1.0,
    }
    c.constraint = {"map": "none", "rebase_every": 0, "rules": ((".*", "free"),)}
    c.oialr = {
        "face": "factored",
        "delay": 1 / 3,
        "every": 2000,
        "rank_rule": "cutoff",
        "rank_value": 0.15,
        "rewarm": 0,
        "rules": (),  # All kernels of which the short side is more than a tenth of the long one.
        "keep_first": False,
        "keep_last": True,
        "open": 0.1,
        "max_drop": 0.5,
        "floor": 0.01,
        "grow": 0,
        "stability_every": 0,
        "control": "none",
    }
    c.arms = {"dense": {"oialr": {"face": "none"}}, "OIALR": {}}
    return c
