"""Low-rank kernels in unmodified Flax Linen models."""

import jax.numpy as jnp
from flax import linen as nn

from orthojax.factored import is_factored
from orthojax.nn.low_rank import after_left, plus, rows_of, to_the_end


def linen_low_rank():
    """A context in which Linen's Dense, DenseGeneral and Conv, and what is made of them, such as
    attention, take a `Factored` kernel and multiply by its factors.

    Under jit it need only be open while tracing. Other modules see the kernels as they are:
    `OIALR(rules=...)` chooses those of the three kinds.

    >>> import jax, jax.numpy as jnp, orthojax, orthojax.nn
    >>> from flax import linen as nn
    >>> model, x = nn.Dense(8), jnp.ones((2, 8))
    >>> params = model.init(jax.random.key(0), x)["params"]
    >>> params, bases, _ = orthojax.OIALR(delay=0, every=1, cutoff=0.5).convert(params)
    >>> with orthojax.nn.linen_low_rank():
    ...     y = model.apply({"params": orthojax.bind(params, bases)}, x)
    """
    return nn.intercept_methods(_interceptor)


def _interceptor(next_fun, args, kwargs, context):
    module = context.module
    if (
        context.method_name != "__call__"
        # Not what derives from them, which may do more to its input.
        or type(module) not in (nn.Dense, nn.DenseGeneral, nn.Conv)
        or not module.has_variable("params", "kernel")
    ):
        return next_fun(*args, **kwargs)
    kernel = module.get_variable("params", "kernel")
    if not is_factored(kernel):
        return next_fun(*args, **kwargs)
    # Not `next_fun`: it would compare the shape of the kernel with its own.
    bias = module.get_variable("params", "bias") if module.use_bias else None
    (x,) = (*args, *kwargs.values())
    if kernel.pays_for(rows_of(x, kernel)) and kernel.in_order and kernel.basis.u.ndim == 2:
        if isinstance(module, nn.Dense | nn.DenseGeneral) and not getattr(module, "batch_dims", ()):
            return _linear(module, kernel, x, bias)
        if isinstance(module, nn.Conv) and module.feature_group_count == 1 and module.mask is None:
            return _conv(module, kernel, x, bias)
    arrays = {"kernel": kernel.dense()} | ({} if bias is None else {"bias": bias})
    return module.clone(parent=None).apply({"params": arrays}, x)


def _linear(module, kernel, x, bias):
    axes = getattr(module, "axis", -1)
    x = to_the_end(x, (axes,) if isinstance(axes, int) else axes)
    dtype = module.dtype or jnp.result_type(x, kernel.basis.u)
    return plus(kernel.apply(x, dtype, module.precision), bias)


def _conv(module, kernel, x, bias):
    left, _, _ = kernel.sides()
    arrays = {"kernel": left.reshape(*kernel.inputs, -1)}
    first = module.clone(parent=None, features=left.shape[-1], use_bias=False)
    y = first.apply({"params": arrays}, x)
    return after_left(y, kernel, bias, y.dtype, module.precision)
