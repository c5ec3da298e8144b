"""Points of `sweep_program.py`, and what became of them, for the tests of sweeps."""

import json
import sys
import time
from pathlib import Path

from experiments import configuration
from experiments.sweeps import files, plan
from experiments.sweeps.points import (
    Point,
    digest,
    flag,
)

ROOT = Path(plan.RUN).parents[1]
PROGRAM = (sys.executable, str(Path(__file__).with_name("sweep_program.py")))


def made(folder, *sweep):
    """Points that run `sweep_program.py`."""
    points = []
    for overrides in sweep:
        own = folder / "points" / digest(overrides)
        command = [*PROGRAM, f"--workdir={own}", *(flag(k, x) for k, x in overrides.items())]
        points.append(Point(overrides, own, tuple(command)))
    return points


def begun(point):
    return len((point.folder / "began.txt").read_text().splitlines())


def codes(point):
    return [attempt.get("code") for attempt in files.record(point.folder)["attempts"]]


def until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


FILE = """
from experiments.configs import quickstart
from experiments.sweeps.points import *

def get_config(depth="2"):
    c = quickstart.get_config()
    c.model.depth = int(depth)
    return c

def get_sweep({parameters}):
    return {sweep}
"""


def sweep_file(tmp_path, sweep, parameters=""):
    path = tmp_path / "own.py"
    path.write_text(FILE.format(sweep=sweep, parameters=parameters))
    return str(path)


def begin(point, file, overrides):
    """What a finished run of `point` leaves, as far as a sweep reads it."""
    config, _ = plan.load(file, point.folder.parent, overrides)
    point.folder.mkdir(parents=True)
    (point.folder / "config.json").write_text(json.dumps(configuration.as_json(config)))
    (point.folder / "status.json").write_text('{"status": "done", "step": 800, "steps": 800}')
    (point.folder / "results.csv").write_text("arm\n")
    return files.ended(point.folder)
