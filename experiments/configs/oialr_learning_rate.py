"""OIALR and the learning rate: cosine, warm restarts and constant, delays from 0 to 2/3 of the
steps; the MLP of oialr_arms.

  python scripts/prepare_data.py --dataset=mnist
  python experiments/run.py --config=experiments/configs/oialr_learning_rate.py
"""

from experiments.configs import oialr_arms

SCHEDULES = {
    "cosine": {},
    # A cycle every second change of bases.
    "restarts": {"optimizer": {"schedule": "warm_restarts", "period": 312}},
    "constant": {"optimizer": {"schedule": "constant"}},
}


def get_config():
    c = oialr_arms.base()
    c.fork_at = 0  # The beginnings differ.
    c.oialr.update(oialr_arms.BUDGET)
    delays = {"none": 0.0, "a sixth": 1 / 6, "a third": 1 / 3, "two thirds": 2 / 3}
    c.arms = {
        f"{name}, delay {part}": schedule | {"oialr": {"delay": delay}}
        for name, schedule in SCHEDULES.items()
        for part, delay in delays.items()
    }
    c.arms.update({f"{n}, dense": s | {"oialr": {"face": "none"}} for n, s in SCHEDULES.items()})
    return c
