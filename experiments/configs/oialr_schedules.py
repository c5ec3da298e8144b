"""Which schedule of the learning rate OIALR (arXiv:2401.08505) wants: cosine, warm restarts and
constant, with and without warm-up; a ViT of two blocks on CIFAR-10, dense and OIALR, three seeds.

  python scripts/prepare_data.py --dataset=cifar10
  python experiments/run.py --config=experiments/configs/oialr_schedules.py

Result, dense and OIALR: cosine 46.1, 37.9 %, without warm-up 45.9, 38.1 %, restarts 46.0, 38.3 %,
constant 46.2, 39.4 %, without warm-up 45.7, 39.5 %; warmed up again after each change 36.7 %. Time:
25 minutes of one core.
"""

from experiments.configs import oialr_architectures

SCHEDULES = {
    "cosine": {"schedule": "cosine"},
    "cosine, no warm-up": {"warmup_steps": 0},
    "restarts": {"schedule": "warm_restarts", "period": oialr_architectures.EPOCH},
    "constant": {"schedule": "constant"},
    "constant, no warm-up": {"schedule": "constant", "warmup_steps": 0},
}


def get_config():
    c = oialr_architectures.base()
    c.oialr.stability_every = 0
    c.arms = {}
    for name, schedule in SCHEDULES.items():
        c.arms[f"{name}: dense"] = {"optimizer": schedule, "oialr": {"face": "none"}}
        c.arms[f"{name}: OIALR"] = {"optimizer": schedule}
    # Changes of rank warm up again, in the low-rank phase alone.
    c.arms["rewarmed: OIALR"] = {"oialr": {"rewarm": 39}}
    return c
