"""What the studies share: checks, data, curves over seeds, tables."""

import functools
import itertools

import jax
import numpy as np

from experiments import configuration, data, results
from experiments.configuration import ConfigurationError
from experiments.drawing import COLORS


class Missing(Exception):
    """A cell cannot be measured here; the message says what to do."""


def check_numbers(field, values, *, least):
    """Raises `ConfigurationError` unless `values` are different ints from `least` on."""
    whole = all(type(x) is int and x >= least for x in values)
    if not values or not whole or len(set(values)) < len(values):
        raise ConfigurationError(
            f"{field} are different whole numbers from {least} on, at least one, got {values}."
        )


def check_positive(config, *fields):
    values = configuration.flatten(config.to_dict())
    for field in fields:
        if not values[field] > 0:
            raise ConfigurationError(f"{field} must be positive, got {values[field]}.")


@functools.lru_cache(maxsize=1)
def load_data(name, directory) -> data.Dataset:
    """Raises `Missing` for a set that is not prepared."""
    try:
        return data.load(name, directory or None)
    except (ValueError, OSError) as error:
        raise Missing(str(error)) from error


def over_seeds(function):
    """`function` mapped over the leading axis of its arguments, in one program.

    On CPUs one after another: products of one seed fill the cores, and batches of small ones run
    at half their speed and compile longer.
    """
    if jax.default_backend() != "cpu":
        return jax.vmap(function)
    return lambda *arguments: jax.lax.map(lambda own: function(*own), arguments)


def with_value(config, field, value):
    """`config` with another value of one field."""
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict({field: value})
    return changed.lock()


def values_of(rows, arm, **where) -> list[dict]:
    """The rows of an arm in which each field of `where` has its value."""
    return [row for row in rows if row["arm"] == arm and all(row[k] == x for k, x in where.items())]


def band(axes, x, values, label, color, **style):
    """Draws means over the seeds, `values` [seeds, points], with one standard deviation.

    Points that are not finite for all seeds, as where float32 overflowed, are left out.
    """
    x, values = np.asarray(x), np.asarray(values, float)
    finite = np.isfinite(values).all(axis=0)
    x, values = x[finite], values[:, finite]
    if not len(x):
        return
    mean, deviation = values.mean(axis=0), values.std(axis=0, ddof=min(1, len(values) - 1))
    axes.fill_between(x, mean - deviation, mean + deviation, color=color, alpha=0.2, lw=0)
    axes.plot(x, mean, color=color, label=label, **style)


def colored(names):
    """Yields (name, its colour)."""
    return zip(names, itertools.cycle(COLORS), strict=False)


def mean_and_deviation(values, form=".3g") -> str:
    if not len(values):
        return "-"
    if not np.isfinite(values).all():
        return "-inf" if np.isneginf(values).all() else "overflow"
    mean, deviation = results.spread(values)
    return f"{mean:{form}} ± {deviation:{form}}" if len(values) > 1 else f"{mean:{form}}"
