"""Batch normalization for depth: with or without the mean, and with statistics of whole data."""

import jax
import jax.numpy as jnp
from flax import nnx


class BatchNorm(nnx.Module):
    """(x - mean) / sqrt(var + epsilon) * scale + bias, over all axes but the last, the features.

    Without the mean, x / sqrt(E[x²] + epsilon): at epsilon = 0 that of Meterez, Joudaki, Orabona,
    Immer, Rätsch, Daneshmand 2024 (arXiv:2310.02012, eq. 4) times the root of the batch size, so
    that entries are of size 1. In training the moments are those of the batch, and `mean` and `var`
    keep running averages of them, momentum * old + (1 - momentum) * batch; in evaluation the
    moments are these averages. `train()` and `eval()` of a model switch between the two. Variances
    are the biased ones.

    Running averages of thousands of layers need not fit together: each is an average over weights
    of the past, and errors grow with depth. `population_statistics` gives those of one set of
    weights.

    Trained `scale` and `bias` [features], if `affine`; statistics, float32, `mean` [features], if
    `use_mean`, and `var` [features], without the mean E[x²]. Moments are computed in float32 at
    least; the result has the dtype of x.

    >>> import jax.numpy as jnp
    >>> norm = BatchNorm(1, use_mean=False)
    >>> [round(float(y), 4) for y in norm(jnp.array([[1.0], [7.0]]))[:, 0]]
    [0.2, 1.4]
    """

    def __init__(
        self,
        features: int,
        *,
        use_mean: bool = True,
        affine: bool = True,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        rngs: nnx.Rngs | None = None,
    ):
        """
        Args:
          features: length of the last axis.
          use_mean: whether to subtract the mean.
          affine: whether there are a trained scale and bias.
          momentum: part of the old running average in the new one.
          epsilon: added to the variance.
          rngs: not used, there for layers that are made alike.
        """
        del rngs
        self.use_mean, self.momentum, self.epsilon = use_mean, momentum, epsilon
        self.use_running_average = False  # set by `train()` and `eval()`
        self.scale = nnx.Param(jnp.ones(features, jnp.float32)) if affine else None
        self.bias = nnx.Param(jnp.zeros(features, jnp.float32)) if affine else None
        self.mean = nnx.BatchStat(jnp.zeros(features, jnp.float32)) if use_mean else None
        self.var = nnx.BatchStat(jnp.ones(features, jnp.float32))

    def __call__(self, x):
        y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        axes = tuple(range(x.ndim - 1))
        if self.use_mean:
            y = y - self._moment(self.mean, lambda: y.mean(axes))
        var = self._moment(self.var, lambda: jnp.square(y).mean(axes))
        y = y * jax.lax.rsqrt(var + self.epsilon)
        if self.scale is not None:
            y = y * self.scale[...] + self.bias[...]
        return y.astype(x.dtype)

    def _moment(self, average, of_batch):
        """The moment to normalize by, of which `average` keeps the running average."""
        if self.use_running_average:
            return average[...]
        moment = of_batch()
        average[...] = self.momentum * average[...] + (1 - self.momentum) * moment
        return moment


def population_statistics(module: nnx.Module, *args, **kwargs):
    """Makes the statistics of each batch normalization in `module` those of these inputs.

    One pass in which every `BatchNorm` and `nnx.BatchNorm`, also in a `Stack`, normalizes by the
    moments of its own input and keeps them: those of layer l are exact for the inputs as the layers
    before it, so normalized, pass them on. Modes and momenta are afterwards as before, and all else
    that `train()` switches stays off if it was off. Give all examples at once: moments of parts do
    not add up to those of the whole. In a `Repeat` the last pass counts.

    Args:
      module: changed in place; without batch normalization there is nothing to change.
      *args, **kwargs: what the module is called with.

    Returns:
      The outputs of the module.

    >>> import jax.numpy as jnp
    >>> norm = BatchNorm(1)
    >>> _ = population_statistics(norm, jnp.array([[1.0], [7.0]]))
    >>> norm.mean[...], norm.var[...]
    (Array([4.], dtype=float32), Array([9.], dtype=float32))
    """
    norms = [m for _, m in nnx.iter_modules(module) if isinstance(m, (BatchNorm, nnx.BatchNorm))]
    before = [(norm.use_running_average, norm.momentum) for norm in norms]
    try:
        for norm in norms:
            norm.use_running_average, norm.momentum = False, 0.0
        return module(*args, **kwargs)
    finally:
        for norm, (use_running_average, momentum) in zip(norms, before, strict=True):
            norm.use_running_average, norm.momentum = use_running_average, momentum
