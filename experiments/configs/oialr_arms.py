"""What of OIALR matters: an MLP on MNIST, every arm from one dense trunk, three seeds.

  python scripts/prepare_data.py --dataset=mnist
  python experiments/run.py --config=experiments/configs/oialr_arms.py

All low-rank arms but that of the paper's rule share one budget of stored numbers, near the size
that the paper's rule comes to.
"""

from experiments.configs import oialr_mnist_cnn

BUDGET = {"rank_rule": "budget", "rank_value": 0.1}  # Of the dense size of the kernels.


def base():
    """The run that the studies of OIALR share: three hidden layers of 512, 4 epochs."""
    c = oialr_mnist_cnn.get_config()
    c.steps = 1872
    c.fork_at = 624
    c.eval_every = 312
    c.checkpoint_every = 624
    c.model = {
        "name": "mlp",
        "width": 512,
        "depth": 3,
        "activation": "relu",
        "kernel_init": "he_normal",
    }
    c.optimizer.lr = 1e-3
    c.optimizer.weight_decay = 0.1
    c.oialr.update(
        {"delay": 1 / 3, "every": 156, "rank_rule": "cutoff", "rank_value": 0.3, "max_drop": 1.0}
    )
    c.oialr.rules = ((r"(embed|hidden_\d+)/kernel", "low_rank"), (".*", "dense"))
    c.oialr.stability_every = 0
    return c


def get_config():
    c = base()
    c.arms = {
        "dense": {"oialr": {"face": "none"}},
        # The standard baseline: train dense, truncate at the end, perhaps train on.
        "truncated at the end": {"oialr": BUDGET | {"delay": 1.0}},
        "truncated late": {"oialr": BUDGET | {"delay": 5 / 6, "every": 0}},
        "OIALR, cutoff": {},
        "OIALR, budget": {"oialr": BUDGET},
        "no basis update": {"oialr": BUDGET | {"every": 0}},
        "diagonal core": {"oialr": BUDGET | {"every": 0, "control": "diagonal"}},
        "random bases": {"oialr": BUDGET | {"every": 0, "control": "random"}},
        "U, V trained too": {"oialr": BUDGET | {"every": 0, "control": "all"}},
        "from the start": {"oialr": BUDGET | {"delay": 0.0}},
        "GaLore": {"oialr": {"control": "galore", "rank_value": 64.0}},
    }
    return c
