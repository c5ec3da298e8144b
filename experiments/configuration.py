"""What a configuration may hold: fields, names, values; its arms; and whether it continues a run.

Every mistake is found before anything runs and is told in one line, with the nearest right name.
"""

import difflib
import json
import re

from ml_collections import ConfigDict

from experiments import data, low_rank, models, optimizers, parallel, tasks
from orthojax import matrices

# Every field of a configuration with its type, but for the options of its model and of its data.
FIELDS = {
    "seed": int,
    "steps": int,
    "batch_size": int,
    "eval_batch_size": int,
    "log_every": int,
    "eval_every": int,
    "checkpoint_every": int,
    "checkpoints_kept": int,
    "patience": int,
    "label_smoothing": float,
    "parallel": str,
    "data.name": str,
    "data.dir": str,
    "data.augment": str,
    "model.name": str,
    "optimizer.name": str,
    "optimizer.lr": float,
    "optimizer.schedule": str,
    "optimizer.period": int,
    "optimizer.warmup_steps": int,
    "optimizer.momentum": float,
    "optimizer.b1": float,
    "optimizer.b2": float,
    "optimizer.weight_decay": float,
    "optimizer.clip_norm": float,
    "constraint.map": str,
    "constraint.rebase_every": int,
    "constraint.rules": tuple,
    "mesh.data": int,
    "mesh.fsdp": int,
    "mesh.tensor": int,
    "mesh.rules": tuple,
    "arms": ConfigDict,
}

# Fields that a configuration may leave out: runs from one trunk; runs of several seeds, and whether
# they are trained together; the field that the figure of all arms is drawn against; the training
# images by whose statistics the model is tested once more; measures of stacked layers; another task
# than the usual one of the data; the learning rate of constrained parameters over that of the rest;
# a penalty of some parameters, or a cap of their singular values; the alpha of mixup, 0 for none.
OPTIONAL = {
    "fork_at": int,
    "seeds": tuple,
    "vmap_seeds": bool,
    "against": str,
    "population": int,
    "profile.every": int,
    "profile.kernels": str,
    "task": str,
    "data.mixup": float,
    "constraint.lr_factor": float,
    "penalty.name": str,
    "penalty.weight": float,
    "penalty.rules": tuple,
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
    "patience",
    "label_smoothing",
    "optimizer.period",
    "optimizer.warmup_steps",
    "optimizer.weight_decay",
    "optimizer.clip_norm",
    "constraint.rebase_every",
)

# May differ when a run is resumed: these change neither batches nor updates. (`parallel` and `mesh`
# change the order of sums, hence the rounding, as another machine does.)
MAY_CHANGE = (
    "patience",
    "parallel",
    "mesh.data",
    "mesh.fsdp",
    "mesh.tensor",
    "mesh.rules",
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
    fields = FIELDS | {field: kind for field, kind in OPTIONAL.items() if field in values}
    if "oialr" in config:
        fields |= low_rank.FIELDS
    for field, kind in fields.items():
        if field not in values:
            raise ConfigurationError(f"the configuration lacks {field}, a {kind.__name__}.")
        value = values[field]
        if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
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
        "data.augment": data.AUGMENTS,
        "model.name": models.MODELS,
        "optimizer.name": optimizers.OPTIMIZERS,
        "optimizer.schedule": optimizers.SCHEDULES,
        "constraint.map": ("none", *optimizers.MAPS, *optimizers.LINKS),
    }.items():
        check_name(field, values[field], list(names))

    of_data = [f"data.{option}" for option in data.options(config.data.name)]
    of_model = [f"model.{option}" for option in models.options(config.model.name)]
    what = f"configuration of model {config.model.name!r} and data {config.data.name!r}"
    for field in values:
        check_name(f"{what}: {field}", field, [*fields, *OPTIONAL, *of_data, *of_model])
    for field in (*of_data, *of_model):
        if field not in values:
            raise ConfigurationError(f"{what} needs {field}.")
        if field.removeprefix("model.") in models.CHOICES:
            check_name(field, values[field], list(models.CHOICES[field.removeprefix("model.")]))
    for field in of_data:
        if type(values[field]) is not int or not values[field] > 0:
            raise ConfigurationError(f"{field} must be a positive int, got {values[field]!r}.")

    if not config.label_smoothing < 1:
        raise ConfigurationError(f"label_smoothing must be below 1, got {config.label_smoothing}.")
    c = config.optimizer
    if (c.period > 0) != (c.schedule in optimizers.PERIODIC):
        raise ConfigurationError(
            f"optimizer.period={c.period} does not go with optimizer.schedule={c.schedule}; give a "
            f"positive one for {' and '.join(optimizers.PERIODIC)}, otherwise 0."
        )
    if c.warmup_steps >= config.steps:
        raise ConfigurationError(
            f"optimizer.warmup_steps={c.warmup_steps} must be less than steps={config.steps}."
        )
    if c.weight_decay and c.name not in optimizers.DECAYING:
        raise ConfigurationError(
            f"optimizer.weight_decay={c.weight_decay} needs optimizer.name in "
            f"{', '.join(optimizers.DECAYING)}, got {c.name}."
        )
    if c.name == "muon" and config.constraint.map not in ("none", "muon"):
        raise ConfigurationError(
            f"optimizer.name=muon is for matrices without a constraint, got "
            f"constraint.map={config.constraint.map}; constraint.map=muon is Muon on the manifold."
        )
    if "oialr" in config:
        _check_oialr(config)
    _check_optional(config)
    if not 0 <= config.get("fork_at", 0) < config.steps:
        raise ConfigurationError(
            f"fork_at={config.fork_at} is a step before steps={config.steps}, or 0 for no fork."
        )
    _check_rules("constraint.rules", config.constraint.rules, ["orthogonal", "free"])


def _check_optional(config):
    if config.get("vmap_seeds", False):
        for field, value, needed in (
            ("parallel", config.parallel, "jit"),
            ("patience", config.patience, 0),
            ("fork_at", config.get("fork_at", 0), 0),
            ("oialr.face", low_rank.face(config), "none"),
        ):
            if value != needed:
                raise ConfigurationError(
                    f"vmap_seeds, which trains all seeds in one program, needs {field}={needed}, "
                    f"got {value}."
                )
        if not config.get("seeds", ()):
            raise ConfigurationError("vmap_seeds needs seeds, e.g. (0, 1, 2).")
    if config.get("population", 0) < 0:
        raise ConfigurationError(f"population must not be negative, got {config.population}.")
    if not config.data.get("mixup", 0.0) >= 0:
        raise ConfigurationError(f"data.mixup must not be negative, got {config.data.mixup}.")
    if not config.constraint.get("lr_factor", 1.0) > 0:
        raise ConfigurationError(
            f"constraint.lr_factor must be positive, got {config.constraint.lr_factor}."
        )
    if "task" in config:
        check_name("task", config.task, list(tasks.TASKS))
    if "penalty" in config:
        _check_penalty(config)
    if "profile" in config:
        if config.profile.every < 1:
            raise ConfigurationError(f"profile.every must be positive, got {config.profile.every}.")
        _check_rules("profile.kernels", [(config.profile.kernels, "free")], ["free"])
    if against := config.get("against", ""):
        check_name("against", against, list(flatten(config.to_dict())))


def _check_penalty(config):
    p = config.penalty
    for field in ("name", "weight", "rules"):
        if field not in p:
            raise ConfigurationError(
                f"penalty needs penalty.{field}; penalty.name=none is for no penalty."
            )
    check_name("penalty.name", p.name, ["none", *optimizers.PENALTIES])
    if p.name != "none" and not p.weight > 0:
        raise ConfigurationError(f"penalty.weight must be positive, got {p.weight}.")
    if p.name == "spectral_cap" and config.constraint.map != "none":
        raise ConfigurationError(
            f"penalty.name=spectral_cap, the last link of a chain, does not go with "
            f"constraint.map={config.constraint.map}, which would have to be so too."
        )
    _check_rules("penalty.rules", p.rules, ["orthogonal", "free"])


def seeds(config):
    """The seeds of an experiment; None is that of its configuration, in no folder of its own."""
    chosen = config.get("seeds", ()) or (None,)
    numbers = all(type(seed) is int and seed >= 0 for seed in chosen if seed is not None)
    if not numbers or len(set(chosen)) < len(chosen):
        raise ConfigurationError(f"seeds are different whole numbers from 0 on, got {chosen}.")
    return chosen


def with_seed(config, seed):
    """Returns the configuration of the run of one seed: its own if `seed` is None."""
    if seed is None:
        return config
    own = config.copy_and_resolve_references().unlock()
    own.seed = seed
    own.seeds = ()  # More seeds do not make another run of it.
    return own.lock()


def _check_oialr(config):
    c = config.oialr
    for field, names in {
        "face": low_rank.FACES,
        "rank_rule": low_rank.RULES,
        "control": low_rank.CONTROLS,
    }.items():
        check_name(f"oialr.{field}", c[field], list(names))
    for field in ("every", "rewarm", "grow", "stability_every"):
        if c[field] < 0:
            raise ConfigurationError(f"oialr.{field} must not be negative, got {c[field]}.")
    if not 0 <= c.delay <= 1:
        raise ConfigurationError(f"oialr.delay is a part of the steps in [0, 1], got {c.delay}.")
    if c.face == "none":
        return
    if config.constraint.map != "none":
        raise ConfigurationError(
            f"oialr.face={c.face} does not go with constraint.map={config.constraint.map}: kernels "
            "are of low rank or orthogonal; set one of them to none."
        )
    if c.control != "none" and c.face != "factored":
        raise ConfigurationError(f"oialr.control={c.control} needs oialr.face=factored.")
    if c.control in ("diagonal", "all") and c.every:
        raise ConfigurationError(
            f"oialr.control={c.control} trains what a change of bases would mix; set oialr.every=0."
        )
    _check_rules("oialr.rules", c.rules, ["low_rank", "dense"])


def _check_rules(field, rules, labels):
    for rule in rules:
        try:
            pattern, label = rule
            re.compile(pattern)
        except (re.error, TypeError, ValueError) as error:
            raise ConfigurationError(
                f"{field}: {rule!r} is not (regular expression, label): {error}."
            ) from error
        if not isinstance(label, matrices.MatrixAxes):
            check_name(field, label, labels)


# Arms, and the same run again.


def arms(config, check=check):
    """Returns {name: configuration}, one for each arm; {"": configuration} if there are none.
    `check` raises for an arm that cannot be right.

    `config.arms` is {name: overrides}, e.g. {"orthogonal": {}, "free": {"constraint": {"map":
    "none"}}}. An arm is `config` with its overrides, and has no arms. One of another `model.name`
    gives all fields of its model.
    """
    chosen = {}
    for name, overrides in (config.arms.to_dict() or {"": {}}).items():
        if "/" in name or name == "trunk":
            raise ConfigurationError(
                f"arms.{name}: an arm is a folder in the workdir beside trunk; call it otherwise."
            )
        arm = config.copy_and_resolve_references()
        arm.arms = ConfigDict()
        name_of_model = overrides.get("model", {}).get("name")
        if name_of_model and name_of_model != config.model.name:
            arm.model = overrides["model"]  # Another model has other options.
        for key, value in flatten(overrides).items():
            check_name(f"arms.{name}", key, list(flatten(arm.to_dict())))
            try:
                arm.update_from_flattened_dict({key: value})
            except TypeError as error:
                raise ConfigurationError(f"arms.{name}: {key}={value!r}: {error}") from error
        check(arm)
        chosen[name] = arm.lock()
    return chosen


def trunk(config):
    """Returns the configuration of the run from which the arms of `config` fork: all at full
    rank."""
    common = config.copy_and_resolve_references()
    common.arms = ConfigDict()
    if "oialr" in common:
        common.oialr.face = "none"
    check(common)
    return common.lock()


def as_json(config) -> dict:
    """Returns `config` as it comes back from JSON."""
    return json.loads(config.to_json_best_effort())


def check_same(before, after, where):
    """Raises `ConfigurationError` if `after` would not continue the run that `before` began.

    Both are configurations from `as_json`. More steps are fine where the learning rate does not
    depend on their number.
    """
    before, after = flatten(before), flatten(after)
    depends = before.get("optimizer.schedule") == "cosine" or before.get("oialr.face") in (
        "factored",
        "latent",
    )  # The delay is a part of the steps.
    if not depends and before["steps"] <= after["steps"]:
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
