"""How the delay of OIALR (arXiv:2401.08505) interacts with depth and learning rate: a small ViT on
CIFAR-10 of 2 or 6 blocks, two learning rates, three seeds.

  python scripts/prepare_data.py --dataset=cifar10
  python experiments/run.py --config=experiments/configs/oialr_delay_depth.py

A delay of 1, all steps, is dense training. accuracy.png has a line for each depth and rate.

Result for delays of .1, .3, .6, 1: 2 blocks at 4e-3 41.1, 43.1, 45.0, 48.4 %, at 5e-4 35.3, 34.2,
29.3, 42.8 %; 6 blocks 42.2, 43.6, 45.7, 49.7 % and 36.2, 35.7, 30.0, 44.8 %.
Time: 60 minutes of one core.
"""

from experiments.configs import oialr_architectures

DEPTHS = (2, 6)
RATES = (5e-4, 4e-3)
DELAYS = (0.1, 0.3, 0.6)


def get_config():
    c = oialr_architectures.base()
    c.oialr.stability_every = 0
    c.against = "oialr.delay"
    c.arms = {}
    for depth in DEPTHS:
        for rate in RATES:
            own = {"model": {"depth": depth}, "optimizer": {"lr": rate}}
            # No dots in names.
            name = f"{depth} blocks, lr {rate:.0e}"
            for delay in DELAYS:
                c.arms[f"{name}, {delay:.0e}"] = own | {"oialr": {"delay": delay}}
            c.arms[f"{name}, 1e+00"] = own | {"oialr": {"delay": 1.0, "face": "none"}}
    return c
