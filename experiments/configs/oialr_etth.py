"""oialr_ettm2 on ETTh1: the next 192 hours from 96.

python scripts/prepare_data.py --dataset=etth1
python experiments/run.py --config=experiments/configs/oialr_etth.py --config.data.horizon=192
"""

from experiments.configs import oialr_ettm2


def get_config():
    c = oialr_ettm2.get_config()
    c.data.name = "etth1"
    c.steps = 1032  # 4 epochs of 258 batches
    c.fork_at = 129
    c.log_every = 43
    c.eval_every = 43
    c.checkpoint_every = 258
    c.oialr.update({"delay": 1 / 8, "every": 86})
    return c
