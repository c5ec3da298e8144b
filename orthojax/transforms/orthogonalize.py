"""Orthogonalized updates: each replaced by its polar factor. The Muon family as a link of a chain.

The polar factor U V' of M = U S V' is where <M, X> is largest among |X|_2 <= 1: steepest descent in
the spectral norm, and the linear minimization oracle of its ball. What the methods of the family
add are links of Optax:

    momentum        optax.trace(0.95, nesterov=True) before it
    width           `scale`
    weight decay    optax.add_decayed_weights after it
    learning rate   optax.scale_by_learning_rate after that
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from orthojax.decompositions import nearest_orthonormal, polar_express
from orthojax.linalg import eye_like, frobenius, gram, matmul, times
from orthojax.matrices import MatrixAxes, Rules, Views
from orthojax.sharding import on_auto_axes

_JORDAN = 3.4445, -4.7750, 2.0315
_STEPS = {"polar_express": 8, "newton_schulz": 5, "exact": None}
_SCALES = {
    "none": lambda inputs, outputs: 1.0,
    "width": lambda inputs, outputs: max(1.0, outputs / inputs) ** 0.5,
    "match_rms": lambda inputs, outputs: 0.2 * max(inputs, outputs) ** 0.5,
    "spectral": lambda inputs, outputs: (outputs / inputs) ** 0.5,
}


def jordan_newton_schulz(x: jax.Array, steps: int = 5) -> jax.Array:
    """Roughly the polar factor of `x` [..., n, p]: `steps` times a X + b X(X'X) + c X(X'X)^2 with
    (3.4445, -4.7750, 2.0315), from X / |X|_F (Jordan et al. 2024,
    kellerjordan.github.io/posts/muon).

    These coefficients have the steepest start of those that keep singular values near 1, and do not
    converge: they go around between .68 and 1.13 or so, which updates tolerate. For a polar factor
    use `polar_express`. Cost: that of its steps.
    """
    norm = frobenius(x)[..., None, None]
    x = x / jnp.where(norm > 0, norm, 1)
    a, b, c = _JORDAN
    for _ in range(steps):
        k = gram(x, x)
        x = times(x, a * eye_like(x) + b * k + c * matmul(k, k))
    return x


def orthogonalize(
    method: Literal["polar_express", "newton_schulz", "exact"] = "polar_express",
    steps: int | None = None,
    scale: Literal["width", "match_rms", "spectral", "none"] | float = "width",
    axes: MatrixAxes | Rules | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Replaces each update M = U S V' by (nearly) its polar factor U V', times a scale.

    Args:
      method: "polar_express", `orthojax.polar_express`, which steps X'X instead of X where n >= 2p
        (Gram form); "newton_schulz", `jordan_newton_schulz`; "exact", to rounding, as many steps as
        it takes.
      steps: their number; None: 8, 5, and None for "exact".
      scale: of a kernel with `inputs` and `outputs`:
        "width"      sqrt(max(1, outputs / inputs)), as Jordan et al. 2024;
        "match_rms"  0.2 sqrt(max(inputs, outputs)), entries of .2 in the root mean square where
                     Adam's are .2 to .4: its learning rates and weight decay hold (Liu et al. 2025,
                     arXiv:2502.16982);
        "spectral"   sqrt(outputs / inputs), a norm of 1 between root mean squares of inputs and of
                     outputs (Bernstein, Newhouse 2024, arXiv:2409.20325; Scion, see `scion`);
        "none", 1; or a number.
      axes: as in `reparameterize`, by the paths of the updates. Leaves of one matrix shape are one
        batch.

    Singular values of the result for five Gaussian updates in float32, their range and the root
    mean square of their distance from 1, and the time of an update of `muon` on one core, in u, the
    time of one product of n x p by p x p:

                             512 x 512                 512 x 128
        polar_express, 8     .80 to 1.00  .004  23 u   1.000 to 1.000 2e-5   9 u
        polar_express, 5     .02 to 1.00  .040  13 u   .995 to 1.005  .003   5 u
        newton_schulz, 5     .00 to 1.20  .191  14 u   .682 to 1.134  .22    6 u

    The smallest singular value of a square Gaussian matrix is near 0, and stays the farther from 1.

    No state; params are not needed. Updates of zero stay zero but for "exact", which gives some
    orthonormal matrix.

    Raises:
      ValueError: an unknown method or scale, or `steps` below 1.

    >>> import jax.numpy as jnp, optax, orthojax
    >>> tx = optax.chain(
    ...     optax.trace(0.95, nesterov=True),
    ...     orthojax.orthogonalize(scale="match_rms"),
    ...     optax.add_decayed_weights(0.1),
    ...     optax.scale_by_learning_rate(1e-3),
    ... )
    >>> link = orthojax.orthogonalize(scale="none")
    >>> g = {"kernel": jnp.diag(jnp.array([3.0, -0.5]))}
    >>> link.update(g, link.init(g))[0]["kernel"].round(3)
    Array([[ 1.,  0.],
           [ 0., -1.]], dtype=float32)
    """
    if method not in _STEPS:
        raise ValueError(f"`method` is one of {', '.join(_STEPS)}, got {method!r}.")
    if isinstance(scale, str) and scale not in _SCALES:
        raise ValueError(f"`scale` is a number or one of {', '.join(_SCALES)}, got {scale!r}.")
    if method == "exact" and steps is not None:
        raise ValueError(
            f'`method="exact"` takes as many steps as needed: no `steps`, got {steps}.'
        )
    steps = _STEPS[method] if steps is None else steps
    if steps is not None and steps < 1:
        raise ValueError(f"`steps` is their number, at least 1, got {steps}.")

    def direction(m):
        match method:
            case "polar_express":
                return polar_express(m, steps)
            case "newton_schulz":
                return jordan_newton_schulz(m, steps)
            case "exact":
                return nearest_orthonormal(m)

    def size(matrix, shape):
        if not isinstance(scale, str):
            return scale
        reduction = matrix.reduction
        reduction = (reduction,) if isinstance(reduction, int) else reduction
        inputs = math.prod(shape[i] for i in reduction)
        return _SCALES[scale](inputs, math.prod(matrix.matrix_shape(shape)) // inputs)

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        views = Views.of(updates, axes)

        def all_directions(updates):
            found = jax.tree.leaves(views.map(direction, views.matrices(updates)))
            sizes = map(size, views.axes, views.shapes)
            scaled = [s * x for s, x in zip(sizes, found, strict=True)]
            return views.unview(views.treedef.unflatten(scaled), updates)

        return on_auto_axes(all_directions, updates, like=updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update_fn)


def muon(
    learning_rate: optax.ScalarOrSchedule,
    momentum: float = 0.95,
    nesterov: bool = True,
    weight_decay: float = 0.0,
    **options,
) -> optax.GradientTransformationExtraArgs:
    """Muon (Jordan et al. 2024): momentum, `orthogonalize(**options)`, decoupled weight decay and
    the learning rate.

    For matrices: give it the kernels by `optax.partition` or `optax.masked`, and Adam the rest,
    also the embedding and the head. `learning_rate` is the spectral norm of a step, before `scale`.

    >>> import optax, orthojax
    >>> kernels = orthojax.label_by_path([(".*/kernel", "muon"), (".*", "adam")])
    >>> optimizers = {"muon": orthojax.muon(2e-2), "adam": optax.adam(1e-3)}
    >>> tx = optax.partition(optimizers, kernels)
    """
    return optax.chain(
        optax.trace(momentum, nesterov),
        orthogonalize(**options),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )


def scion(
    learning_rate: optax.ScalarOrSchedule,
    radius: float,
    momentum: float = 0.9,
    constrained: bool = True,
    **options,
) -> optax.GradientTransformationExtraArgs:
    """Scion on kernels: steps to the linear minimization oracle of a spectral ball (Pethick et al.
    2025, arXiv:2502.07529, SCG and uSCG).

    With M the mean of gradients, -radius sqrt(outputs / inputs) U V' is where <M, X> is least on
    the ball of that radius in the spectral norm, and

        constrained:   W <- (1 - lr) W - lr radius sqrt(outputs / inputs) U V'
        unconstrained: W <-  W         - lr radius sqrt(outputs / inputs) U V'

    The first is a Frank-Wolfe step: weights that start in the ball stay there, without a
    projection, for `learning_rate` at most 1. `muon` with `scale="spectral"` is the second, and
    with `weight_decay=1 / radius` the first at the learning rate lr radius.

    Args:
      momentum: 1 - alpha of the paper.
      options: of `orthogonalize`, but for `scale`.

    State: a copy of params. Raises ValueError as `orthogonalize`.
    """
    return optax.chain(
        optax.trace(momentum),
        orthogonalize(scale="spectral", **options),
        optax.scale(radius),
        optax.add_decayed_weights(1.0 if constrained else 0.0),
        optax.scale_by_learning_rate(learning_rate),
    )
