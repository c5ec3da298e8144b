"""OIALR (Coquelin et al. 2024, arXiv:2401.08505) against low-rank pruning: ResNet-50 (25.6 M
parameters), ImageNet-2012, 90 epochs. For GPUs or TPUs; not run yet: docs/imagenet.md has what is
known without the pictures.

  python scripts/prepare_data.py --dataset=imagenet2012 --raw_dir=<folder of the archives>
  python experiments/run.py --config=experiments/configs/imagenet_resnet50.py

OIALR as in configs/training/oialr_trainer.yaml of the authors' repository
(Helmholtz-AI-Energy/OIALR at e9e885d), whose model is ResNet-50: 10,000 steps at full rank, a
change every 2,000, cutoff 0.2, first and last layer dense, AdamW with a weight decay of 0.01, 17 of
90 epochs warm up, label smoothing 0.1, RandAugment at 15. Batches of 256 a GPU there; with the 16
GPUs of their launch script 10,000 steps are the third that the paper says. The learning rate is
that of their dense ResNet-RS, falling to 0; theirs for OIALR rises, from 2e-4 to 8e-4.

Pruned, from the same dense trunk: truncated at the end; truncated at five sixths and trained on in
the truncated bases. "Pufferfish-like" (Wang, Agarwal, Papailiopoulos 2021, arXiv:2103.03936)
begins anew, as it leaves full rank after 10 epochs: the last stage at a quarter of its rank, U and
V trained, and S, which they put into both. Not here: TRP (arXiv:2004.14566), dense weights that are
truncated every few steps, which `oialr.face` does not have.
"""

from experiments.configs import oialr_imagenet_resnetrs101

EPOCH = oialr_imagenet_resnetrs101.EPOCH
# Stored numbers as a part of those of the dense kernels.
BUDGET = {"rank_rule": "budget", "rank_value": 0.5}
AT_ONCE = {"open": 1.0, "max_drop": 1.0, "floor": 0.0}


def get_config():
    c = oialr_imagenet_resnetrs101.get_config()
    c.steps = 90 * EPOCH
    c.fork_at = 10_000
    c.data.update({"size": 224, "mixup": 0.0})
    c.model.update(
        {
            "depths": (3, 4, 6, 3),
            "stem": "7x7",
            "pool_shortcut": False,
            "squeeze": 0.0,
            "dropout": 0.0,
        }
    )
    c.optimizer.update({"warmup_steps": 17 * EPOCH, "weight_decay": 1e-2, "clip_norm": 0.0})
    c.oialr.update({"delay": 10_000 / c.steps, "rank_value": 0.2, "keep_first": True})
    last_stage = ((r"block_1[345]/.*kernel", "low_rank"), (".*", "dense"))
    pufferfish = {"delay": 1 / 9, "every": 0, "control": "all", "rank_rule": "fixed"}
    pufferfish |= {"rank_value": 0.25, "rules": last_stage, "keep_first": False, "keep_last": False}
    c.arms = {
        "dense": {"oialr": {"face": "none"}},
        "OIALR": {},
        "OIALR, budget": {"oialr": BUDGET},
        "truncated at the end": {"oialr": BUDGET | AT_ONCE | {"delay": 1.0}},
        "truncated late": {"oialr": BUDGET | AT_ONCE | {"delay": 5 / 6, "every": 0}},
        "Pufferfish-like": {"oialr": pufferfish | AT_ONCE},
    }
    return c
