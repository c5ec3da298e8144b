"""A run as small as it may be, for the tests of the runner."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

from experiments import configuration, run
from experiments.configs import quickstart

RUN = Path(run.__file__)
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


def tiny(**overrides):
    """The quickstart in small; `optimizer__lr=0.1` sets optimizer.lr."""
    config = quickstart.get_config()
    changed = TINY | {key.replace("__", "."): value for key, value in overrides.items()}
    config.arms = changed.pop("arms")
    config.update_from_flattened_dict(changed)
    (arm,) = configuration.arms(config).values()
    return arm


def rows(workdir):
    return (workdir / "metrics.jsonl").read_text().splitlines()


def status(workdir):
    return json.loads((workdir / "status.json").read_text())


def assert_same_arrays(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def start(workdir, *arguments):
    """The tiny run as a program of its own, on one device."""
    command = [sys.executable, str(RUN), f"--config={QUICKSTART}", f"--workdir={workdir}"]
    command += [f"--config.{key}={value}" for key, value in (TINY | {"steps": 60}).items()]
    environment = os.environ | {"XLA_FLAGS": ""}
    return subprocess.Popen(
        [*command, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
