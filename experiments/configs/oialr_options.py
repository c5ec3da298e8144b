"""Which options of OIALR help: ablations, every arm from one dense trunk, as in oialr_arms.

python scripts/prepare_data.py --dataset=mnist
python experiments/run.py --config=experiments/configs/oialr_options.py
"""

from experiments.configs import oialr_arms
from experiments.configs.oialr_arms import BUDGET


def get_config():
    c = oialr_arms.base()
    c.arms = {
        "cutoff": {},
        "fixed part": {"oialr": {"rank_rule": "fixed", "rank_value": 0.05}},
        "energy": {"oialr": {"rank_rule": "energy", "rank_value": 0.8}},
        "stable rank": {"oialr": {"rank_rule": "stable_rank", "rank_value": 2.0}},
        "budget": {"oialr": BUDGET},
        "budget, max_drop": {"oialr": BUDGET | {"max_drop": 0.5}},
        "budget, open": {"oialr": BUDGET | {"open": 0.25}},
        "budget, grow": {"oialr": BUDGET | {"grow": 8}},
        "budget, rewarm": {"oialr": BUDGET | {"rewarm": 30}},
        "budget, floor": {"oialr": BUDGET | {"floor": 0.1}},
        "budget, keep_first": {"oialr": BUDGET | {"keep_first": True}},
        "budget, keep_last": {"oialr": BUDGET | {"keep_last": True}},
    }
    return c
