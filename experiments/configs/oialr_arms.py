"""What of OIALR matters: every arm forks from one dense trunk of oialr_mnist_cnn, three seeds.

  python scripts/prepare_data.py --dataset=mnist
  python experiments/run.py --config=experiments/configs/oialr_arms.py

All low-rank arms but the paper's rule share one budget of stored numbers, the size that the paper's
rule came to.
"""

from experiments.configs import oialr_mnist_cnn

BUDGET = 0.12  # Of the dense size of the kernels.


def get_config():
    c = oialr_mnist_cnn.get_config()
    c.steps = 936  # 2 epochs
    c.fork_at = 312
    c.eval_every = 156
    c.checkpoint_every = 312
    c.oialr.every = 78
    c.oialr.stability_every = 0
    budget = {"rank_rule": "budget", "rank_value": BUDGET}
    c.arms = {
        "dense": {"oialr": {"face": "none"}},
        # The standard baseline: train dense, truncate at the end, perhaps train on.
        "truncated at the end": {"oialr": budget | {"delay": 1.0}},
        "truncated at 90 %": {"oialr": budget | {"delay": 0.9, "every": 0}},
        "OIALR, cutoff": {},
        "OIALR, budget": {"oialr": budget},
        "no basis update": {"oialr": budget | {"every": 0}},
        "diagonal core": {"oialr": budget | {"every": 0, "control": "diagonal"}},
        "random bases": {"oialr": budget | {"every": 0, "control": "random"}},
        "U, V trained too": {"oialr": budget | {"every": 0, "control": "all"}},
        "from the start": {"oialr": budget | {"delay": 0.0}},
        "GaLore": {"oialr": {"control": "galore", "rank_value": 32.0}},
    }
    return c
