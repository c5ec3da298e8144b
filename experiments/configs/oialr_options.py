"""Which options of OIALR help: ablations, every arm from one dense trunk of oialr_mnist_cnn.

python scripts/prepare_data.py --dataset=mnist
python experiments/run.py --config=experiments/configs/oialr_options.py
"""

from experiments.configs import oialr_arms


def get_config():
    c = oialr_arms.get_config()
    budget = {"rank_rule": "budget", "rank_value": oialr_arms.BUDGET}
    c.arms = {
        "cutoff": {},
        "fixed part": {"oialr": {"rank_rule": "fixed", "rank_value": 0.1}},
        "energy": {"oialr": {"rank_rule": "energy", "rank_value": 0.75}},
        "stable rank": {"oialr": {"rank_rule": "stable_rank", "rank_value": 2.0}},
        "budget": {"oialr": budget},
        "budget, max_drop": {"oialr": budget | {"max_drop": 0.5}},
        "budget, open": {"oialr": budget | {"open": 0.25}},
        "budget, grow": {"oialr": budget | {"grow": 2}},
        "budget, rewarm": {"oialr": budget | {"rewarm": 20}},
        "cutoff, floor": {"oialr": {"floor": 0.1}},
        "cutoff, keep_first": {"oialr": {"keep_first": True}},
        "cutoff, keep_last": {"oialr": {"keep_last": True}},
    }
    return c
