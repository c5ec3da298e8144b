"""Flax NNX layers whose kernel is held as factors, put in the place of ordinary ones."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from orthojax.bases import Basis
from orthojax.factored import Factored, is_factored
from orthojax.low_rank_training import OIALR
from orthojax.matrices import named


def to_the_end(x: jax.Array, axes: Sequence[int]) -> jax.Array:
    """`x` with these axes moved behind the others, in rising order as Flax contracts them."""
    return jnp.moveaxis(x, sorted(a % x.ndim for a in axes), range(-len(axes), 0))


def rows_of(x: jax.Array, kernel: Factored) -> int:
    """How many rows the kernel is multiplied by: for a convolution, the positions."""
    inputs = kernel.inputs
    # Of a convolution's [*window, channels], x has the channels.
    width = math.prod(inputs) if x.shape[-len(inputs) :] == inputs else inputs[-1]
    return x.size // width


def plus(y: jax.Array, bias: jax.Array | None) -> jax.Array:
    """y [..., *outputs] + bias [*outputs], in the dtype of y."""
    if bias is None:
        return y
    return y + jnp.expand_dims(bias.astype(y.dtype), range(y.ndim - bias.ndim))


def after_left(y: jax.Array, kernel: Factored, bias, dtype, precision) -> jax.Array:
    """The rest of a convolution whose first factor has been applied: core and right one, as 1x1
    convolutions, and the bias."""
    _, core, right = kernel.sides()
    if core is not None:
        y = jnp.matmul(y, core.astype(dtype), precision=precision)
    return plus(jnp.matmul(y, right.mT.astype(dtype), precision=precision), bias)


class FrozenBasis(nnx.Variable):
    """The `Basis` of a kernel: no `nnx.Param`, so that no optimizer sees it."""


class LowRank(nnx.Module):
    """An `nnx.Linear`, `nnx.LinearGeneral` or `nnx.Conv` with the kernel U S V'.

    `kernel` holds the core S, at the path where the kernel was. A convolution becomes one with the
    kernel U, of the same window, stride and padding, and two 1x1 ones. Where the factors do not pay
    (`Factored.pays`), for grouped, masked and other layers, the layer is applied to its dense
    kernel.
    """

    def __init__(self, layer: nnx.Module, kernel: Factored):
        self.kernel = None if kernel.core is None else nnx.Param(kernel.core)
        self.basis = FrozenBasis(kernel.basis)
        self.bias = getattr(layer, "bias", None)
        self.layer = nnx.graphdef(layer)  # All but its arrays.
        self.kind = type(layer)

    def __call__(self, inputs: jax.Array, out_sharding=None) -> jax.Array:
        basis = self.basis.get_value()
        kernel = Factored(basis, None if self.kernel is None else self.kernel.get_value())
        bias = None if self.bias is None else self.bias.get_value()
        layer = self._layer(kernel.basis.u, bias)
        whole = basis.u.ndim == 2 and kernel.in_order
        # With a placement to keep, the layer itself keeps it.
        if whole and out_sharding is None and kernel.pays_for(rows_of(inputs, kernel)):
            if self.kind in (nnx.Linear, nnx.LinearGeneral) and not getattr(layer, "batch_axis", 0):
                return self._linear(layer, kernel, inputs, bias)
            if self.kind is nnx.Conv and layer.feature_group_count == 1 and layer.mask is None:
                return self._conv(layer, kernel, inputs, bias)
        return self._layer(kernel.dense(), bias)(inputs, out_sharding=out_sharding)

    def _layer(self, kernel, bias):
        arrays = {"kernel": kernel} if bias is None else {"kernel": kernel, "bias": bias}
        return nnx.merge(self.layer, arrays)

    def _linear(self, layer, kernel, x, bias):
        x = to_the_end(x, getattr(layer, "axis", (-1,)))
        dtype = layer.dtype or jnp.result_type(x, kernel.basis.u)
        return plus(kernel.apply(x, dtype, layer.precision), bias)

    def _conv(self, layer, kernel, x, bias):
        left, _, _ = kernel.sides()
        dtype = layer.dtype or jnp.result_type(x, left)
        layer.kernel.set_value(left.reshape(*kernel.inputs, -1))
        layer.bias, layer.use_bias = nnx.data(None), False
        return after_left(layer(x), kernel, bias, dtype, layer.precision)


def low_rank(model: nnx.Module) -> nnx.Module:
    """Puts a `LowRank` in the place of each layer whose kernel is a `Factored`; returns the model.

    Works in place, except that a model that is itself such a layer is replaced. Inside jit it costs
    nothing: it runs while tracing. Kernels of modules other than Linear, LinearGeneral and Conv
    become dense arrays, computed from their factors.

      module = orthojax.nn.low_rank(nnx.merge(graphdef, orthojax.bind(params, bases), rest))

    """
    if type(model) in _LAYERS and _has_factored_kernel(model):
        return LowRank(model, model.kernel.get_value())
    for path, module in list(nnx.iter_modules(model)):
        if type(module) in _LAYERS and _has_factored_kernel(module):
            *parents, last = path
            parent = model
            for key in parents:
                parent = _child(parent, key)
            new = LowRank(module, module.kernel.get_value())
            if isinstance(last, str) and hasattr(parent, last):
                setattr(parent, last, new)
            else:  # nnx.List, nnx.Dict and their like.
                parent[last] = new
    for _, variable in nnx.iter_graph(model):
        if isinstance(variable, nnx.Param) and is_factored(variable.get_value()):
            variable.set_value(variable.get_value().dense())
    return model


# Not what derives from them, which may do more to its input.
_LAYERS = (nnx.Linear, nnx.LinearGeneral, nnx.Conv)


def _has_factored_kernel(module):
    kernel = getattr(module, "kernel", None)
    return isinstance(kernel, nnx.Variable) and is_factored(kernel.get_value())


def _child(parent, key):
    return getattr(parent, key) if isinstance(key, str) and hasattr(parent, key) else parent[key]


def bases_of(model: nnx.Module) -> dict[str, Basis]:
    """{path of the kernel: Basis} of the `LowRank` layers of a model."""
    return {
        "/".join(map(str, (*path, "kernel"))): module.basis.get_value()
        for path, module in nnx.iter_modules(model)
        if isinstance(module, LowRank)
    }


def _require_layers(names, model):
    layers = {
        "/".join(map(str, (*path, "kernel")))
        for path, module in nnx.iter_modules(model)
        if path and type(module) in _LAYERS
    }
    others = [name for name in names if name not in layers]
    if others:
        raise ValueError(
            f"`method` chooses {others} for low rank, which are no kernels of an nnx.Linear, "
            'LinearGeneral or Conv inside `model`: make them "dense" in `rules`, or put `model` '
            "into an nnx.Sequential if it is such a layer itself."
        )


def refresh(method: OIALR, step: int, model: nnx.Module, optimizer: nnx.Optimizer, grads=None):
    """`OIALR.refresh` for a model and its `nnx.Optimizer` (of `nnx.Param`), both in place.

    Call it after every step, outside jit: it returns at once where nothing is due. A step under
    `nnx.jit` compiles anew when shapes have changed. Raises ValueError, before anything changes,
    for chosen kernels of which no `LowRank` can be made.

    >>> import optax, orthojax, orthojax.nn
    >>> from flax import nnx
    >>> model = nnx.Sequential(nnx.Linear(8, 8, rngs=nnx.Rngs(0)))
    >>> optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
    >>> method = orthojax.OIALR(delay=10, every=10, cutoff=0.5)
    >>> orthojax.nn.refresh(method, 10, model, optimizer)
    >>> type(model.layers[0]).__name__
    'LowRank'
    """
    if not method.is_due(step):
        return
    params = nnx.as_pure(nnx.state(model, nnx.Param))
    opt_state = nnx.as_pure(optimizer.opt_state)
    bases = bases_of(model)
    modules = {"/".join(map(str, path)): module for path, module in nnx.iter_modules(model)}
    if not bases:
        _require_layers(method.select(params), model)
    params, bases, opt_state = method.refresh(step, params, bases, opt_state, optimizer.tx, grads)
    cores = named(params)
    for name, basis in bases.items():
        module, core = modules[name.rpartition("/")[0]], cores[name]
        if isinstance(module, LowRank):
            module.kernel.set_value(core)
            module.basis.set_value(basis)
        else:
            module.kernel.set_value(Factored(basis, core))
    low_rank(model)
    jax.tree.map(
        lambda variable, value: variable.set_value(value),
        optimizer.opt_state,
        opt_state,
        is_leaf=lambda x: isinstance(x, nnx.Variable),
    )
