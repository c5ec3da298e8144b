"""Whether a configuration fits its data and its model, found before anything runs."""

import jax
import numpy as np
from flax import nnx

import orthojax
from experiments import configuration, data, evaluation, low_rank, models, parallel, tasks, training
from orthojax import matrices


def load_data(config) -> data.Dataset:
    """Loads the data; raises `ConfigurationError` if they are missing or something does not fit."""
    c = config.data
    chosen = {option: c[option] for option in data.options(c.name)}
    try:
        dataset = data.load(c.name, c.dir or None, **chosen)
    except (ValueError, OSError) as error:
        raise configuration.ConfigurationError(f"data.name={c.name}: {error}") from error
    examples = len(dataset.train)
    try:
        devices = parallel.batch_devices(config)
    except ValueError as error:
        raise configuration.ConfigurationError(f"mesh: {error}") from error
    if config.batch_size > examples:
        raise configuration.ConfigurationError(
            f"batch_size={config.batch_size} is larger than the {examples} training examples "
            f"of data.name={c.name}."
        )
    for field in ("batch_size", "eval_batch_size"):
        if config[field] % devices:
            raise configuration.ConfigurationError(
                f"{field}={config[field]} must be divisible by the {devices} devices over which "
                "a batch is split."
            )
    if config.patience and dataset.validation is None:
        raise configuration.ConfigurationError(
            f"patience={config.patience} needs a validation split, which data.name={c.name} lacks; "
            "set patience=0."
        )
    task = tasks.name_of(config, dataset)
    for field, value, off, fits in (
        ("data.augment", c.augment, "none", "image_shape" in dataset.model_arguments),
        ("data.mixup", c.get("mixup", 0.0), 0.0, task == "classification"),
        ("label_smoothing", config.label_smoothing, 0.0, task == "classification"),
    ):
        if value != off and not fits:
            raise configuration.ConfigurationError(
                f"{field}={value} is for classification of images, data.name={c.name} is for "
                f"{task}; set {field}={off}."
            )
    _check_augmentation(config, dataset.train, devices)
    return dataset


def _check_augmentation(config, split, devices):
    c, encoded = config.data, isinstance(split, data.Pictures)
    known = data.OF_PICTURES if encoded else data.OF_ARRAYS
    if c.augment not in known:
        kind = "encoded pictures" if encoded else "arrays"
        raise configuration.ConfigurationError(
            f"data.augment={c.augment} is not for the {kind} of data.name={c.name}; set it to one "
            f"of {', '.join(known)}."
        )
    if c.get("mixup", 0.0) and config.batch_size // devices % 2:
        raise configuration.ConfigurationError(
            f"data.mixup mixes pairs of images of one device, but batch_size={config.batch_size} "
            f"gives {config.batch_size // devices} to each of the {devices} devices; make it even."
        )


def make_model(config, dataset) -> training.Model:
    """Returns the model of `training`; raises `ConfigurationError` if it does not fit the data."""
    name, given = config.model.name, dataset.model_arguments
    needed = models.arguments(name)
    if not set(needed) <= set(given):
        raise configuration.ConfigurationError(
            f"model.name={name} is made from {', '.join(needed)}; data.name={dataset.name}, "
            f"for {dataset.task}, has {', '.join(given)}."
        )
    try:
        model = training.make_model(config, dataset)
    except ValueError as error:
        raise configuration.ConfigurationError(f"model.name={name}: {error}") from error
    devices = jax.device_count()
    if config.parallel == "pmap" and devices > 1 and _has_batch_statistics(model):
        raise configuration.ConfigurationError(
            f"parallel=pmap would normalize on each of the {devices} devices by the moments of its "
            f"part of the batch, and model.name={name} has batch statistics here; set parallel=jit."
        )
    return model


def _has_batch_statistics(model):
    module = nnx.eval_shape(lambda: nnx.merge(model.train, *model.init()))
    return bool(jax.tree.leaves(nnx.state(module, nnx.BatchStat)))


def check_rules(config, params):
    """Raises `ConfigurationError` if `constraint.rules` or `penalty.rules` do not fit the
    parameters of the model."""
    if "penalty" in config:
        try:
            matrices.constrained(params, config.penalty.rules)
        except ValueError as error:
            raise configuration.ConfigurationError(f"penalty.rules: {error}") from error
    rules = config.constraint.rules
    try:
        constrained = matrices.constrained(params, rules)
    except ValueError as error:
        raise configuration.ConfigurationError(f"constraint.rules: {error}") from error
    if not constrained and config.constraint.map != "none":
        leaves = jax.tree_util.tree_leaves_with_path(params)
        paths = ", ".join(matrices.path_name(path) for path, _ in leaves)
        raise configuration.ConfigurationError(
            f"constraint.rules {rules} constrain none of the parameters {paths}; "
            "set constraint.map=none to train without a constraint."
        )


def check_profile(config, params):
    """Raises `ConfigurationError` if `profile.kernels` does not fit the parameters."""
    if "profile" in config:
        try:
            evaluation.profiled(params, config.profile.kernels)
        except ValueError as error:
            raise configuration.ConfigurationError(f"profile.kernels: {error}") from error


def make_devices(config, params, seeds=()):
    """Returns the `parallel.Parallel` of the run; raises `ConfigurationError` if its mesh does not
    fit the devices, or its rules the parameters."""
    try:
        devices = parallel.of(config, seeds)
        orthojax.shardings(params, params, devices.replicated.mesh, config.mesh.rules)
        return devices
    except ValueError as error:
        raise configuration.ConfigurationError(f"mesh: {error}") from error


def make_method(config, model, dataset):
    """Returns the `orthojax.OIALR` of `config.oialr` or None; raises `ConfigurationError` if it
    does not fit the model."""
    inputs, _ = dataset.train.take(np.arange(1))

    def outputs(arrays):
        return training.module_of(model.eval, *arrays, {})(model.task.preprocess(inputs))

    try:
        params, variables = jax.eval_shape(model.init)
        order = ()
        if low_rank.face(config) != "none":
            used = orthojax.call_order(outputs, (params, variables))
            order = [name.removeprefix("0/") for name in used if name.startswith("0/")]
        method = low_rank.make_method(config, order)
        if method is not None:
            method.select(params)
        jax.eval_shape(low_rank.singular_bases(config), params)
        return method
    except ValueError as error:
        raise configuration.ConfigurationError(f"oialr: {error}") from error
