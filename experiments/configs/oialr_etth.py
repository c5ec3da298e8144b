"""oialr_ettm2 on ETTh1: the next 192 hours from 96.

python scripts/prepare_data.py --dataset=etth1
python experiments/run.py --config=experiments/configs/oialr_etth.py --config.data.horizon=192

Result at horizon 96, seed 0: dense MSE 0.4358, MAE 0.4420; OIALR 0.4695 and 0.4663 with 5.6 %
trained: behind, since the dense model does not overfit here. Time: 8 minutes on one core.
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
