"""Parses `--config` and its overrides; a mistake is one line with the nearest right name."""

import difflib
import re
import runpy
import sys
from pathlib import Path

from absl import flags

from experiments.configuration import ConfigurationError, check_name, flatten

CONFIGS = Path(__file__).parent / "configs"


def exit_with(error, code=2):
    """Ends the program with one line instead of a traceback."""
    print(f"Error: {error}", file=sys.stderr, flush=True)
    raise SystemExit(code)


def parse_flags(argv):
    """Parses `argv` like absl; a mistake in `--config` or an override ends in one line, code 2.

    To be given to `absl.app.run` as `flags_parser`.
    """
    try:
        arguments = flags.FLAGS(argv)
        _check_file(argv)
        if flags.FLAGS["verbosity"].using_default_value:
            flags.FLAGS.verbosity = -1  # Warnings: absl's default is INFO, at which Orbax is loud.
        return arguments
    except ConfigurationError as error:
        exit_with(error)
    except (flags.Error, AttributeError, KeyError, OSError) as error:
        try:
            _check_file(argv)
            _check_overrides(argv)
        except ConfigurationError as mistake:
            exit_with(mistake)
        if not isinstance(error, flags.Error):
            raise  # From inside the configuration file: its traceback says where.
        exit_with(error)


def _config_argument(argv):
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        if match := re.fullmatch(r"--?config(=(.*))?", argument):
            return match[2] if match[1] else following
    return ""


def _check_file(argv):
    path = Path(_config_argument(argv).split(":")[0])
    known = {p.stem: p for p in sorted(CONFIGS.glob("[!_]*.py"))}
    if not path.name:
        raise ConfigurationError(
            f"give --config=experiments/configs/<name>.py; there are {', '.join(known)}."
        )
    if not path.is_file():
        near = difflib.get_close_matches(path.stem, known, n=1, cutoff=0)
        raise ConfigurationError(
            f"--config={path}: no such file; nearest: {', '.join(str(known[n]) for n in near)}"
        )


def _check_overrides(argv):
    path, *argument = _config_argument(argv).split(":", 1)
    known = flatten(runpy.run_path(path)["get_config"](*argument).to_dict())
    for argument in argv:
        match = re.match(r"--?(?:no)?config\.([^=]+)", argument)
        if match and not any(name.startswith(f"{match[1]}.") for name in known):
            check_name(f"--config.{match[1]}", match[1], known)
