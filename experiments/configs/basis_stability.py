"""Do singular bases stabilize, or do steps get smaller? Dense training, cosine against constant
learning rate; the stability of the bases (arXiv:2401.08505) between states 39 steps apart.

  python scripts/prepare_data.py --dataset=mnist
  python experiments/run.py --config=experiments/configs/basis_stability.py

Any model: --config.model.name=..., or the same section `oialr` in another configuration.
"""

from experiments.configs import oialr_arms


def get_config():
    c = oialr_arms.base()
    c.fork_at = 0
    c.seeds = ()
    c.oialr.face = "none"
    c.oialr.stability_every = 39
    c.arms = {
        "cosine": {},
        "constant": {"optimizer": {"schedule": "constant"}},
        "constant, a tenth": {"optimizer": {"schedule": "constant", "lr": 1e-4}},
    }
    return c
