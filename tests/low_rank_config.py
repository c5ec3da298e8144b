"""The small low-rank run of `runs.py` as a file for --config."""

from runs import LOW_RANK, experiment


def get_config():
    return experiment(LOW_RANK, arms={})
