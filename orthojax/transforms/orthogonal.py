"""The whole partition in one line: some leaves orthogonal, the rest as before."""

from typing import Any

import optax

from orthojax.matrices import MatrixAxes, Rules, label_by_path
from orthojax.parameterization import Parameterization
from orthojax.transforms.reparameterize import reparameterize

KERNELS = ((r"(.*/)?kernel", "orthogonal"), (".*", "free"))


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
      ValueError: for a rule's value that is none of these, or a leaf that no rule covers.

    >>> import optax, orthojax
    >>> rules = [("hidden_.*/kernel", "orthogonal"), (".*", "free")]
    >>> tx = orthojax.orthogonal(optax.adam(1e-3), map="exponential", rules=rules)
    """
    for pattern, value in rules:
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
    return optax.partition(
        {"orthogonal": constrained, "free": inner if rest is None else rest}, label_by_path(labels)
    )
