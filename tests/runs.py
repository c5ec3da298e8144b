"""A run as small as it may be, for the tests of the runner."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from experiments import configuration
from experiments.configs import quickstart

RUN = Path(configuration.__file__).with_name("run.py")
QUICKSTART = Path(quickstart.__file__)

TINY = {
    "steps": 12,
    "batch_size": 16,
    "eval_batch_size": 80,  # Does not divide the 1,000 test images.
    "log_every": 3,
    "eval_every": 4,
    "checkpoint_every": 5,
    "model.width": 8,
    "model.depth": 2,
    "optimizer.schedule": "constant",
    "constraint.map": "cayley",
    "constraint.rebase_every": 4,
    "arms": {},
}

# Seven changes of bases, after 4, 6, ..., 16 steps.
LOW_RANK = TINY | {
    "steps": 16,
    "log_every": 2,
    "checkpoint_every": 8,
    "checkpoints_kept": 20,
    "model.width": 16,
    "optimizer.name": "adamw",
    "optimizer.lr": 3e-3,
    "constraint.map": "none",
    "constraint.rules": ((".*", "free"),),
    "oialr": {
        "face": "factored",
        "delay": 0.25,
        "every": 2,
        "rank_rule": "fixed",
        "rank_value": 0.25,
        "rewarm": 0,
        "rules": (),
        "keep_first": False,
        "keep_last": False,
        "open": 1.0,
        "max_drop": 0.5,
        "floor": 0.0,
        "grow": 0,
        "stability_every": 2,
        "control": "none",
    },
}


def experiment(base=TINY, **overrides):
    """The quickstart in small, with its arms; `optimizer__lr=0.1` sets optimizer.lr."""
    config = quickstart.get_config()
    changed = base | {key.replace("__", "."): value for key, value in overrides.items()}
    for section in {"arms", "oialr", "profile", *configuration.OPTIONAL} & changed.keys():
        config[section] = changed.pop(section)
    config.update_from_flattened_dict(changed)
    return config


def tiny(base=TINY, **overrides):
    """The only arm of `experiment`, checked."""
    (arm,) = configuration.arms(experiment(base, **overrides)).values()
    return arm


def rows(workdir):
    return (workdir / "metrics.jsonl").read_text().splitlines()


def status(workdir):
    return json.loads((workdir / "status.json").read_text())


def arrays(workdir, step=60):
    """The state that was saved after `step` steps, as dicts and lists of NumPy's arrays."""
    path = workdir / "checkpoints" / str(step) / "state"
    return jax.tree.map(np.asarray, ocp.StandardCheckpointer().restore(path.absolute()))


def assert_same_arrays(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def start(workdir, *arguments, config=QUICKSTART, devices=1, before=()):
    """A run as a program of its own, on fake devices: the tiny one, unless `config` is another."""
    command = [sys.executable, str(RUN), f"--config={config}", f"--workdir={workdir}"]
    if config == QUICKSTART:
        command += [f"--config.{key}={value}" for key, value in (TINY | {"steps": 60}).items()]
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": str(Path(__file__).parent),
    }
    return subprocess.Popen(
        [*before, *command, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
