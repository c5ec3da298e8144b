"""Runs the points of a configuration's `get_sweep()`, each by experiments/run.py.

  python scripts/sweep.py list --config=experiments/configs/mnist_5k_sweep.py
  python scripts/sweep.py run --config=experiments/configs/mnist_5k_sweep.py --workers=2
  python scripts/sweep.py report --config=experiments/configs/mnist_5k_sweep.py

The same command goes on where a sweep was stopped: points that ended are skipped, others resume
from their checkpoint. --config.<key>=<value> holds for all points. Written to --workdir: a folder
in points/ for each of them, results.csv, and frontier.png.

Exit codes: 0 all points are done, 1 some failed or diverged, 2 a mistake, 128 + n signal n. Of
--engine=index: 0 done, 1 diverged, 2 a mistake, 70 failed, 75 preempted or stopped, and saved.
"""

from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

from experiments import command_line
from experiments.configuration import ConfigurationError
from experiments.sweeps import engines, files, live, plan, search
from experiments.sweeps.points import varying

COMMANDS = ("run", "list", "report")

_CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file with get_sweep().")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where all files go; by default runs/<name of the configuration>_points."
)
_ENGINE = flags.DEFINE_enum(
    "engine",
    "local",
    ["local", "ray", "index"],
    "Programs on this machine; tasks of Ray; or the one point of an array of jobs.",
)
_WORKERS = flags.DEFINE_integer("workers", 1, "Points at a time on this machine.", lower_bound=1)
_RETRIES = flags.DEFINE_integer("retries", 2, "How often a point may fail.", lower_bound=0)
_ADDRESS = flags.DEFINE_string("address", None, "Ray's cluster; by default one on this machine.")
_CPUS = flags.DEFINE_float("cpus", 1.0, "CPUs that a point needs, for Ray.", lower_bound=0.01)
_GPUS = flags.DEFINE_float("gpus", 0.0, "GPUs that a point needs, for Ray.", lower_bound=0.0)
_INDEX = flags.DEFINE_integer(
    "index", None, "Number of the point; else SLURM_ARRAY_TASK_ID or JOB_COMPLETION_INDEX."
)
_HOST = flags.DEFINE_integer("host", None, "Which one of the hosts that run the point together.")
_SEARCH = flags.DEFINE_enum(
    "search", "none", ["none", *search.SCHEDULERS], "Stops the worse points early, by Ray Tune."
)
_METRIC = flags.DEFINE_string(
    "metric", "", "By which a search judges; by default the validation loss, else the test loss."
)
_GRACE = flags.DEFINE_integer("grace", 0, "Steps before a search stops; by default a ninth.")
_REDUCTION = flags.DEFINE_float("reduction", 3.0, "Of how many trials at a rung one goes on.")
_X = flags.DEFINE_string("x", "", "Column for the figure; by default stored, or what is swept.")
_Y = flags.DEFINE_string("y", "", "Column for the figure; by default test accuracy or loss.")


def main(argv):
    command, *rest = argv[1:] or ["run"]
    try:
        if rest or command not in COMMANDS:
            raise ConfigurationError(
                f"give one of {', '.join(COMMANDS)}, got {' '.join(argv[1:])!r}."
            )
        file = config_flags.get_config_filename(flags.FLAGS["config"])
        overrides = config_flags.get_override_values(flags.FLAGS["config"])
        name = Path(file.split(":")[0]).stem
        workdir = Path(_WORKDIR.value or f"runs/{name}_points")
        config, points = plan.load(file, workdir, overrides)
        if command == "run" and _ENGINE.value == "index":
            raise SystemExit(run_one(points))
        if command == "run":
            run(config, points, workdir)
    except (ConfigurationError, ValueError) as error:
        command_line.exit_with(error)
    except ImportError as error:
        command_line.exit_with(f"{error}; pip install 'orthojax-optax[sweep]'.")
    except engines.Stopped as error:
        command_line.exit_with(
            f"{error}, all points under way are saved; run the same command to go on.",
            128 + error.signal_number,
        )
    if command == "list":
        show(points)
    else:
        raise SystemExit(report(points, workdir))


def run(config, points, workdir):
    """All points, by the engine or the search of the flags."""
    workdir.mkdir(parents=True, exist_ok=True)
    common = {"workers": _WORKERS.value, "retries": _RETRIES.value}
    needs = {"address": _ADDRESS.value, "cpus": _CPUS.value, "gpus": _GPUS.value}
    print(f"{len(points)} points in {workdir / 'points'}", flush=True)
    with live.Watch(points) as watch:
        if _SEARCH.value != "none":
            options = {"metric": _METRIC.value, "grace": _GRACE.value}
            options |= {"scheduler": _SEARCH.value, "reduction": _REDUCTION.value}
            best = search.run(points, config, workdir, watch, **options, **common, **needs)
        elif _ENGINE.value == "ray":
            engines.run_ray(points, watch, **common, **needs)
        else:
            engines.run_local(points, watch, **common)
    if _SEARCH.value != "none":
        print(best)


def run_one(points):
    """The point of --index; returns the exit code."""
    end, code = engines.run_index(points, _INDEX.value, retries=_RETRIES.value, host=_HOST.value)
    point = points[engines.point_number(_INDEX.value, len(points))]
    print(f"{point.name}: {end}; {point.folder}", flush=True)
    if end in ("failed", "diverged"):
        print("\n".join(files.log_tail(point.folder)), flush=True)
    return code


def show(points):
    """All points with their numbers, states and commands."""
    keys = varying(points)
    for number, point in enumerate(points):
        state = files.state(point.folder)
        print(f"{number:>4}  {point.name}  {state:<11}  {live.written(point, keys)}")
    print(f"{len(points)} points; the command of the first: {' '.join(points[0].command)}")


def report(points, workdir):
    """Writes the table and the figure; returns the exit code of the sweep."""
    from experiments.sweeps import reporting  # Draws.

    table = reporting.rows(points)
    workdir.mkdir(parents=True, exist_ok=True)
    reporting.write(table, workdir / "results.csv")
    print(reporting.text(points, table))
    try:
        drawn = reporting.frontier(points, table, workdir, _X.value, _Y.value)
    except ConfigurationError as error:
        command_line.exit_with(error)
    print(f"Results: {workdir / 'results.csv'}" + (f"; figure: {drawn}" if drawn else ""))
    if troubles := reporting.troubles(points):
        print(troubles)
    wanted = ("done", "stopped") if _SEARCH.value != "none" else ("done",)
    return int(any(files.state(point.folder) not in wanted for point in points))


if __name__ == "__main__":
    app.run(main, flags_parser=command_line.parse_flags)
