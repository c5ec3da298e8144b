"""The points of a configuration file's `get_sweep()`, checked before anything runs."""

import inspect
import json
import runpy
import sys
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from experiments import configuration
from experiments.configuration import ConfigurationError
from experiments.sweeps.points import Point, digest, flag

RUN = Path(configuration.__file__).with_name("run.py")
EXAMPLE = 'return grid("optimizer.lr", [1e-3, 3e-3]), with grid from experiments.sweeps.points'


def load(config_file: str, workdir: Path, overrides=None, program=(sys.executable, str(RUN))):
    """Returns (configuration, [Point]) of `config_file`, a path with perhaps :argument.

    Args:
      config_file: defines `get_config` and `get_sweep`, both with the argument if there is one.
      workdir: each point is run in points/<digest of its overrides> there.
      overrides: {dotted key: value} for all points, which have them as their own.
      program: what is started for each point, with --config, --workdir and the overrides.

    Raises:
      ConfigurationError: there is no sweep, or a point cannot be right; one line.
    """
    path, *argument = config_file.split(":", 1)
    module = runpy.run_path(path)
    if "get_sweep" not in module:
        raise ConfigurationError(f"{path} has no get_sweep(); e.g. {EXAMPLE}.")
    get_sweep = module["get_sweep"]
    takes = inspect.signature(get_sweep).parameters
    sweep = get_sweep(*argument) if takes else get_sweep()
    if not isinstance(sweep, list) or not all(isinstance(point, dict) for point in sweep):
        raise ConfigurationError(
            f"{path}: get_sweep() must return a list of dicts, got {sweep!r:.60}; e.g. {EXAMPLE}."
        )
    if not sweep:
        raise ConfigurationError(f"{path}: get_sweep() returned no points.")
    config = module["get_config"](*argument)
    file = ":".join([str(Path(path).resolve()), *argument])
    points = {}
    for i, point in enumerate(sweep):
        try:
            checked, own = _checked(config, {**(overrides or {}), **point})
        except ConfigurationError as error:
            raise ConfigurationError(f"point {i} of get_sweep(): {error}") from error
        folder = Path(workdir).absolute() / "points" / digest(own)
        command = [*program, f"--config={file}", f"--workdir={folder}"]
        command += [flag(key, value) for key, value in own.items()]
        points[folder.name] = Point(own, folder, tuple(command))
        _check_folder(folder, checked)
    base = config.copy_and_resolve_references()
    for key, value in (overrides or {}).items():
        _set(base, key, value)
    return base, list(points.values())


def _checked(config, overrides):
    """Returns the configuration with `overrides`, and these in the types that it has for them."""
    config = config.copy_and_resolve_references().unlock()
    for key, value in overrides.items():
        _set(config, key, value)
    if "study" in config:
        from experiments import studies  # Draws, and knows all models.

        configuration.arms(config, studies.check)
    else:
        configuration.arms(config)
    own = {key: _plain(_get(config, key)) for key in overrides}
    return config, own


def _set(config, key, value):
    flat = configuration.flatten(config.to_dict())
    if isinstance(value, ConfigDict):
        value = value.to_dict()
    if not (key == "arms" and isinstance(value, dict)):
        if any(name.startswith(f"{key}.") for name in flat):
            raise ConfigurationError(f"{key} is a section; set its fields, e.g. {key}.<name>.")
        configuration.check_name(key, key, list(flat))
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, dict):
        config[key] = ConfigDict(value)
        return
    try:
        config.update_from_flattened_dict({key: value})
    except TypeError as error:
        kind = type(flat[key]).__name__
        raise ConfigurationError(f"{key} must be {kind}, got {value!r}.") from error


def _get(config, key):
    for part in key.split("."):
        config = config[part]
    return config.to_dict() if isinstance(config, ConfigDict) else config


def _plain(value):
    """`value` if JSON and the command line can hold it."""
    try:
        json.dumps(value)
    except TypeError as error:
        raise ConfigurationError(f"{value!r} is no number, text, tuple or dict.") from error
    return value


def _check_folder(folder, config):
    """Raises if the runs in `folder` are not those of `config`, e.g. of an older version of the
    file. Where they only have fewer steps the table goes, so that they are not taken for ended."""
    if "study" in config or not folder.exists():
        return
    for name, arm in configuration.arms(config).items():
        for seed in configuration.seeds(config):
            own = folder / name / (f"seed_{seed}" if seed is not None else "")
            configuration.check_workdir(own, configuration.with_seed(arm, seed))
            stored = own / "config.json"
            if stored.exists() and json.loads(stored.read_text())["steps"] < config.steps:
                (folder / "results.csv").unlink(missing_ok=True)
