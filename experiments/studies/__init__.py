"""Studies: experiments that measure and do not train.

A configuration with a section `study` is one, e.g. {"name": "gradients", ...its own options}. Like
any other it has `arms`, and of the fields of a training those that its study needs (`FIELDS` of
its module); it has no optimizer and no steps.

Each arm is measured in cells, e.g. one a depth. Written to the workdir:

config.json   the configuration
rows.jsonl    a line with configuration, versions and devices, then one a finished cell; the same
              command goes on after the last of them
results.csv   a row a measurement, e.g. of an arm, a depth and a seed
*.png         the figures

A module of `STUDIES` has

FIELDS              {field: type} beside `study.name` and `arms`
MAY_CHANGE          those that may differ when a study is continued: they choose only the cells, or
                    what is drawn
check(config)       raises `ConfigurationError` for what cannot be right
cells(config)       the cells of an arm, each a JSON value
make_measure(config)  cell -> its rows, dicts; raises `common.Missing` where data are not there
report(arms, rows)  ({name: figure}, lines of the table) of all rows, which begin with their arm
"""

import csv
import json
from pathlib import Path

import matplotlib.pyplot as plt
from ml_collections import ConfigDict
from tqdm import tqdm

from experiments import configuration, metrics, models, results
from experiments.configuration import ConfigurationError
from experiments.data.sources import IMAGES
from experiments.drawing import STYLE
from experiments.studies import (
    adapters,
    block_gradients,
    common,
    density,
    gradients,
    gram_rank,
    isometry,
    jacobian,
    optimality,
    rotations,
)

STUDIES = {
    "isometry": isometry,
    "gram_rank": gram_rank,
    "gradients": gradients,
    "block_gradients": block_gradients,
    "jacobian": jacobian,
    "optimality": optimality,
    "adapters": adapters,
    "density": density,
    "rotations": rotations,
}


def check(config):
    """Raises `ConfigurationError` unless `config`, an arm or all, is that of a study."""
    values = configuration.flatten({**config.to_dict(), "arms": config.get("arms", ConfigDict())})
    name = values.get("study.name")
    configuration.check_name("study.name", name, list(STUDIES))
    fields = {"study.name": str, "arms": ConfigDict, **STUDIES[name].FIELDS}
    what = f"configuration of study {name!r}"
    if "model.name" in fields:
        configuration.check_name("model.name", values.get("model.name"), list(models.MODELS))
        what += f" and model {config.model.name!r}"
        options = [f"model.{option}" for option in models.options(config.model.name)]
    else:
        options = []
    for field, kind in fields.items():
        if field not in values:
            raise ConfigurationError(f"{what} needs {field}, a {kind.__name__}.")
        if not isinstance(values[field], kind) or isinstance(values[field], bool) != (kind is bool):
            raise ConfigurationError(f"{field} must be {kind.__name__}, got {values[field]!r}.")
    for field in values:
        configuration.check_name(f"{what}: {field}", field, [*fields, *options])
    for field in options:
        if field not in values:
            raise ConfigurationError(f"{what} needs {field}.")
        if (choices := models.CHOICES.get(field.removeprefix("model."))) is not None:
            configuration.check_name(field, values[field], list(choices))
    if "data.name" in fields:
        configuration.check_name("data.name", values["data.name"], list(IMAGES))
    if "seeds" in fields:
        common.check_numbers("seeds", values["seeds"], least=0)
    STUDIES[name].check(config)


def run(config, workdir):
    """Measures all cells of all arms of `config` that `workdir` does not have yet; writes
    results.csv, draws, and prints the table.

    Raises:
      ConfigurationError: a value cannot be right, or `workdir` belongs to another study.
    """
    workdir = Path(workdir)
    arms = configuration.arms(config, check)
    names = {arm.study.name for arm in arms.values()}
    if len(names) > 1:
        raise ConfigurationError(f"study.name is one for all arms, got {', '.join(sorted(names))}.")
    study = STUDIES[names.pop()]
    _check_workdir(workdir, config, study)
    workdir.mkdir(parents=True, exist_ok=True)
    metrics.write_json(workdir / "config.json", configuration.as_json(config))

    path = workdir / "rows.jsonl"
    done = _read(path)
    if not done:
        path.write_text(json.dumps(metrics.header(config)) + "\n")
    cells = [(name, cell) for name, arm in arms.items() for cell in study.cells(arm)]
    missing, measure, measured_arm = [], None, None
    with path.open("a") as file, tqdm(cells, disable=None) as bar:
        for name, cell in bar:
            bar.set_description(f"{name} {cell}".strip())
            if _key(name, cell) in done:
                continue
            try:
                if measured_arm != name:
                    measure, measured_arm = study.make_measure(arms[name]), name
                rows = measure(cell)
            except common.Missing as error:
                missing.append(str(error))
                continue
            done[_key(name, cell)] = rows
            file.write(json.dumps({"arm": name, "cell": cell, "rows": rows}) + "\n")
            file.flush()
    for message in dict.fromkeys(missing):
        print(f"Left out: {message}")
    rows = [{"arm": name, **row} for name, cell in cells for row in done.get(_key(name, cell), ())]
    if not rows:
        raise ConfigurationError(f"nothing was measured: {missing[0]}")
    _write_csv(workdir / "results.csv", rows)
    with plt.rc_context(STYLE):
        figures, lines = study.report(arms, rows)
        drawn = [workdir / f"{name}.png" for name in figures]
        for file, figure in zip(drawn, figures.values(), strict=True):
            figure.savefig(file)
            plt.close(figure)
    print(results.text_table(lines))
    print(f"Figures: {', '.join(map(str, drawn))}")
    print(f"Results: {workdir / 'results.csv'}; all that was measured: {path}.")


def _key(arm, cell):
    return arm, json.dumps(cell)


def _read(path) -> dict:
    """{key: rows} of the finished cells; a line that was not finished is cut off."""
    if not path.exists():
        return {}
    header, lines = metrics.read(path)
    path.write_text("".join(json.dumps(line) + "\n" for line in (header, *lines) if line))
    return {_key(line["arm"], line["cell"]): line["rows"] for line in lines}


def _check_workdir(workdir, config, study):
    """Raises `ConfigurationError` if `workdir` holds another study or a training."""
    path = workdir / "config.json"
    if not path.exists():
        return
    try:
        before = configuration.flatten(json.loads(path.read_text()))
    except ValueError as error:
        raise ConfigurationError(f"{path} is no JSON ({error}); give another --workdir.") from error
    after = configuration.flatten(configuration.as_json(config))
    may_change = ("data.dir", *study.MAY_CHANGE)
    different = [
        f"{field}: {before.get(field)!r} there, {after.get(field)!r} now"
        for field in sorted(before.keys() | after.keys())
        if before.get(field) != after.get(field) and field not in may_change
    ]
    if different:
        raise ConfigurationError(
            f"{workdir} belongs to another study ({'; '.join(different)}); give another --workdir."
        )


def _write_csv(path, rows):
    """All numbers and names of `rows`; lists, such as profiles over layers, are in rows.jsonl."""
    rows = [{k: x for k, x in row.items() if not isinstance(x, list)} for row in rows]
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        table.writeheader()
        table.writerows(rows)
