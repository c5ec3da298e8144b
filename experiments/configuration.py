"""What a configuration may hold: fields, names, values; its arms; and whether it continues a run.

Every mistake is found before anything runs and is told in one line, with the nearest right name.
"""

import difflib
import json
import re

import jax
from ml_collections import ConfigDict

import orthojax
from experiments import data, models, parallel, training
from orthojax import matrices

# Every field of a configuration with its type, but for the options of its model.
FIELDS = {
    "seed": int,
    "steps": int,
    "batch_size": int,
    "eval_batch_size": int,
    "log_every": int,
    "eval_every": int,
    "checkpoint_every": int,
    "checkpoints_kept": int,
    "parallel": str,
    "data.name": str,
    "data.dir": str,
    "data.augment": str,
    "model.name": str,
    "optimizer.name": str,
    "optimizer.lr": float,
    "optimizer.schedule": str,
    "optimizer.warmup_steps": int,
    "optimizer.momentum": float,
    "optimizer.b1": float,
    "optimizer.b2": float,
    "optimizer.weight_decay": float,
    "optimizer.clip_norm": float,
    "constraint.map": str,
    "constraint.rebase_every": int,
    "constraint.rules": tuple,
    "arms": ConfigDict,
}

POSITIVE = (
    "steps",
    "batch_size",
    "eval_batch_size",
    "log_every",
    "eval_every",
    "checkpoint_every",
    "checkpoints_kept",
    "optimizer.lr",
)
NOT_NEGATIVE = (
    "seed",
    "optimizer.warmup_steps",
    "optimizer.weight_decay",
    "optimizer.clip_norm",
    "constraint.rebase_every",
)

# May differ when a run is resumed: these change neither batches nor updates. (`parallel` changes
# the order of sums, hence the rounding, as another machine does.)
MAY_CHANGE = (
    "parallel",
    "data.dir",
    "log_every",
    "eval_every",
    "eval_batch_size",
    "checkpoint_every",
    "checkpoints_kept",
)


class ConfigurationError(ValueError):
    """A mistake in the configuration or the choice of the workdir. The message is one line."""


def check_name(what, name, known):
    """Raises the error that names those of `known` nearest to `name`, unless it is one of them."""
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if not near:  # Perhaps only the section is missing.
        ends = {other.rsplit(".")[-1]: other for other in known}
        near = [ends[end] for end in difflib.get_close_matches(name, ends, n=3, cutoff=0.6)]
    hint = f"nearest: {', '.join(near)}" if near else f"known: {', '.join(known)}"
    raise ConfigurationError(f"{what}: unknown name {name!r}; {hint}.")


def flatten(tree, prefix=""):
    """{"a": {"b": 1}} -> {"a.b": 1}; an empty dict stays a value."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def check(config):
    """Raises `ConfigurationError` for what cannot be right, whatever the data."""
    values = flatten({**config.to_dict(), "arms": config.get("arms", ConfigDict())})
    for field, kind in FIELDS.items():
        if field not in values:
            raise ConfigurationError(f"the configuration lacks {field}, a {kind.__name__}.")
        if not isinstance(values[field], kind) or isinstance(values[field], bool):
            raise ConfigurationError(f"{field} must be {kind.__name__}, got {values[field]!r}.")
    for field in POSITIVE:
        if not values[field] > 0:
            raise ConfigurationError(f"{field} must be positive, got {values[field]}.")
    for field in NOT_NEGATIVE:
        if not values[field] >= 0:
            raise ConfigurationError(f"{field} must not be negative, got {values[field]}.")

    for field, names in {
        "parallel": parallel.PARALLEL,
        "data.name": data.NAMES,
        "data.augment": ("none", "crop_flip"),
        "model.name": models.MODELS,
        "optimizer.name": training.OPTIMIZERS,
        "optimizer.schedule": training.SCHEDULES,
        "constraint.map": ("none", *orthojax.MAPS),
    }.items():
        check_name(field, values[field], list(names))

    known = [*FIELDS, *(f"model.{option}" for option in models.options(config.model.name))]
    for field in values:
        check_name(f"configuration of model {config.model.name!r}: {field}", field, known)
    for field in known:
        if field not in values:
            raise ConfigurationError(f"model {config.model.name!r} needs {field}.")
        if field.removeprefix("model.") in models.CHOICES:
            check_name(field, values[field], list(models.CHOICES[field.removeprefix("model.")]))

    c = config.optimizer
    if c.warmup_steps >= config.steps:
        raise ConfigurationError(
            f"optimizer.warmup_steps={c.warmup_steps} must be less than steps={config.steps}."
        )
    if c.name == "adam" and c.weight_decay:
        raise ConfigurationError(
            f"optimizer.weight_decay={c.weight_decay} needs optimizer.name=adamw, got adam."
        )
    for rule in config.constraint.rules:
        try:
            pattern, label = rule
            re.compile(pattern)
        except (re.error, TypeError, ValueError) as error:
            raise ConfigurationError(
                f"constraint.rules: {rule!r} is not (regular expression, label): {error}."
            ) from error
        if not isinstance(label, matrices.MatrixAxes):
            check_name("constraint.rules", label, ["orthogonal", "free"])


def load_data(config) -> data.Dataset:
    """Loads the data; raises `ConfigurationError` if they are missing or a batch does not fit."""
    try:
        dataset = data.load(config.data.name, config.data.dir or None)
    except (ValueError, OSError) as error:
        raise ConfigurationError(f"data.name={config.data.name}: {error}") from error
    examples, devices = len(dataset.train.labels), jax.local_device_count()
    if config.batch_size > examples:
        raise ConfigurationError(
            f"batch_size={config.batch_size} is larger than the {examples} training examples "
            f"of data.name={config.data.name}."
        )
    for field in ("batch_size", "eval_batch_size"):
        if config[field] % devices:
            raise ConfigurationError(
                f"{field}={config[field]} must be divisible by the {devices} local devices."
            )
    return dataset


def check_rules(config, params):
    """Raises `ConfigurationError` if `constraint.rules` do not fit the parameters of the model."""
    rules = config.constraint.rules
    try:
        constrained = training.constrained(params, rules)
    except ValueError as error:
        raise ConfigurationError(f"constraint.rules: {error}") from error
    if not constrained and config.constraint.map != "none":
        leaves = jax.tree_util.tree_leaves_with_path(params)
        paths = ", ".join(matrices.path_name(path) for path, _ in leaves)
        raise ConfigurationError(
            f"constraint.rules {rules} constrain none of the parameters {paths}; "
            "set constraint.map=none to train without a constraint."
        )


# Arms, and the same run again.


def arms(config):
    """Returns {name: configuration}, one for each arm; {"": configuration} if there are none.

    `config.arms` is {name: overrides}, e.g. {"orthogonal": {}, "free": {"constraint": {"map":
    "none"}}}; keys may be dotted too. An arm is `config` with its overrides, and has no arms.
    """
    chosen = {}
    for name, overrides in (config.arms.to_dict() or {"": {}}).items():
        arm = config.copy_and_resolve_references()
        arm.arms = ConfigDict()
        for key, value in flatten(overrides).items():
            check_name(f"arms.{name}", key, list(flatten(arm.to_dict())))
            try:
                arm.update_from_flattened_dict({key: value})
            except TypeError as error:
                raise ConfigurationError(f"arms.{name}: {key}={value!r}: {error}") from error
        check(arm)
        chosen[name] = arm.lock()
    return chosen


def as_json(config) -> dict:
    """Returns `config` as it comes back from JSON."""
    return json.loads(config.to_json_best_effort())


def check_same(before, after, where):
    """Raises `ConfigurationError` if `after` would not continue the run that `before` began.

    Both are configurations from `as_json`. More steps are fine where the learning rate does not
    depend on their number.
    """
    before, after = flatten(before), flatten(after)
    if before.get("optimizer.schedule") == "constant" and before["steps"] <= after["steps"]:
        before["steps"] = after["steps"]
    different = [
        f"{field}: {before.get(field)!r} there, {after.get(field)!r} now"
        for field in sorted(before.keys() | after.keys())
        if before.get(field) != after.get(field) and field not in MAY_CHANGE
    ]
    if different:
        raise ConfigurationError(
            f"{where} belongs to another run ({'; '.join(different)}); give another --workdir."
        )


def check_workdir(workdir, config):
    """Raises `ConfigurationError` if the config.json of `workdir` is that of another run."""
    path = workdir / "config.json"
    if path.exists():
        try:
            before = json.loads(path.read_text())
        except ValueError as error:
            raise ConfigurationError(
                f"{path} is no JSON ({error}); give another --workdir."
            ) from error
        check_same(before, as_json(config), str(workdir))
