"""The whole partition in one line: some leaves orthogonal, the rest as before."""

import difflib
import re
import warnings
from typing import Any

import optax

from orthojax.matrices import KERNELS, MatrixAxes, Rules, label_by_path, named, pairs
from orthojax.parameterization import Parameterization
from orthojax.transforms.reparameterize import reparameterize


def orthogonal(
    inner: optax.GradientTransformation,
    *,
    map: Parameterization | str = "cayley",
    rules: Rules = KERNELS,
    rest: optax.GradientTransformation | None = None,
    rebase_every: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """An optimizer that trains the parameters chosen by `rules` on the orthogonal or Stiefel
    manifold, the rest freely.

    `optax.partition` of `reparameterize(inner, map, rebase_every)` and `rest`.

    Args:
      inner: the optimizer of the orthogonal leaves, e.g. `optax.adam(1e-3)`.
      map: "cayley", "exponential", "householder", "polar", "qr", or a `Parameterization`.
      rules: (regular expression of a whole parameter path such as "block/dense/kernel", value)
        pairs; the first match wins, and a leaf without one is an error. Values: "orthogonal",
        "free", or a `MatrixAxes`, orthogonal with these axes. By default every leaf called "kernel"
        is orthogonal, in the shapes of Flax.
      rest: the optimizer of the free leaves; by default `inner`.
      rebase_every: as in `reparameterize`.

    Raises:
      ValueError: for a rule's value that is none of these, a leaf that no rule covers, or rules
        given by which no leaf is orthogonal. One such rule among others is a warning.

    >>> import optax, orthojax
    >>> rules = [("hidden_.*/kernel", "orthogonal"), (".*", "free")]
    >>> tx = orthojax.orthogonal(optax.adam(1e-3), map="exponential", rules=rules)
    """
    for pattern, value in pairs(rules):
        if value not in ("orthogonal", "free") and not isinstance(value, MatrixAxes):
            raise ValueError(
                'The value of a rule is "orthogonal", "free" or a MatrixAxes, '
                f"got {value!r} for {pattern!r}."
            )
    labels = [(p, "free" if value == "free" else "orthogonal") for p, value in rules]
    axes: list[tuple[str, Any]] = [
        (p, value if isinstance(value, MatrixAxes) else None) for p, value in rules
    ]
    constrained = reparameterize(inner, map, rebase_every, axes)

    def label(params):
        _check_use(labels, list(named(params)), chosen=rules is not KERNELS)
        return label_by_path(labels)(params)

    return optax.partition(
        {"orthogonal": constrained, "free": inner if rest is None else rest}, label
    )


def _check_use(labels, names, chosen):
    """Says so if a rule makes no parameter orthogonal: it may be misspelt. That none does is an
    error for rules that someone has `chosen`."""
    left, unused = list(names), []
    for pattern, label in labels:
        matched = [name for name in left if re.fullmatch(pattern, name)]
        left = [name for name in left if name not in matched]
        if label == "orthogonal" and not matched:
            unused.append(pattern)
    if not unused or not names:
        return
    near = {p: difflib.get_close_matches(p, names, n=1, cutoff=0) for p in unused}
    message = "; ".join(f"{pattern!r}, near {name[0]!r}" for pattern, name in near.items())
    message = (
        f"These rules of `orthogonal` match no parameter, or only such as an earlier rule takes: "
        f"{message}. Patterns match whole paths, as 'block/dense/kernel'."
    )
    if chosen and all(pattern in unused for pattern, label in labels if label == "orthogonal"):
        raise ValueError(f"No parameter is orthogonal. {message}")
    warnings.warn(message, stacklevel=2)
