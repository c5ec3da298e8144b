"""OIALR (arXiv:2401.08505) on the small ViT of oialr_cifar10_minivit_small, CIFAR-10: cutoff and
delay, for three epochs.

  python scripts/prepare_data.py --dataset=cifar10
  python experiments/run.py --config=experiments/configs/oialr_cifar10_minivit_sweep.py

The table and frontier.png have accuracy against what is stored, trained and computed.
"""

from experiments.configs import oialr_cifar10_minivit_small

DELAYS = {"1-6": 1 / 6, "1-3": 1 / 3, "2-3": 2 / 3}


def get_config():
    c = oialr_cifar10_minivit_small.get_config()
    c.seeds = (0,)
    c.steps = 1170
    c.fork_at = 195
    c.optimizer.warmup_steps = 98
    c.eval_every = 195
    c.checkpoint_every = 195
    c.oialr.update({"every": 98, "rank_rule": "cutoff", "max_drop": 1.0})
    arms = {"dense": {"oialr": {"face": "none"}}}
    for name, delay in DELAYS.items():
        for percent in (10, 20, 40):
            oialr = {"delay": delay, "rank_value": percent / 100}
            arms[f"delay {name}, cutoff {percent} %"] = {"oialr": oialr}
    c.arms = arms
    return c
