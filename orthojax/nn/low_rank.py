"""Flax NNX layers whose kernel is held as factors, put in the place of ordinary ones."""

import jax
import jax.numpy as jnp
from flax import nnx

from orthojax.bases import Basis
from orthojax.factored import Factored, is_factored
from orthojax.low_rank_training import OIALR
from orthojax.matrices import named


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

    def __call__(self, x: jax.Array, out_sharding=None) -> jax.Array:
        basis = jax.lax.stop_gradient(self.basis.get_value())
        kernel = Factored(basis, None if self.kernel is None else self.kernel.get_value())
        bias = None if self.bias is None else self.bias.get_value()
        layer = self._layer(kernel.basis.u, bias)
        # With a placement to keep, the layer itself keeps it.
        if kernel.pays and basis.u.ndim == 2 and kernel.in_order and out_sharding is None:
            if self.kind in (nnx.Linear, nnx.LinearGeneral) and not getattr(layer, "batch_axis", 0):
                return self._linear(layer, kernel, x, bias)
            if self.kind is nnx.Conv and layer.feature_group_count == 1 and layer.mask is None:
                return self._conv(layer, kernel, x, bias)
        return self._layer(kernel.dense(), bias)(x, out_sharding=out_sharding)

    def _layer(self, kernel, bias):
        arrays = {"kernel": kernel} if bias is None else {"kernel": kernel, "bias": bias}
        return nnx.merge(self.layer, arrays)

    def _linear(self, layer, kernel, x, bias):
        axes = getattr(layer, "axis", (-1,))
        x = jnp.moveaxis(x, axes, tuple(range(-len(axes), 0)))
        dtype = layer.dtype or jnp.result_type(x, kernel.basis.u)
        y = kernel.apply(x, dtype, layer.precision)
        return y if bias is None else y + bias.astype(y.dtype)

    def _conv(self, layer, kernel, x, bias):
        left, core, right = kernel.sides()
        dtype = layer.dtype or jnp.result_type(x, left)
        layer.kernel.set_value(left.reshape(*kernel.inputs, -1))
        layer.bias, layer.use_bias = nnx.data(None), False
        y = layer(x)
        if core is not None:
            y = jnp.matmul(y, core.astype(dtype), precision=layer.precision)
        y = jnp.matmul(y, right.mT.astype(dtype), precision=layer.precision)
        return y if bias is None else y + bias.astype(y.dtype)


def low_rank(model: nnx.Module) -> nnx.Module:
    """Puts a `LowRank` in the place of each layer whose kernel is a `Factored`; returns the model.

    Works in place, except that a model that is itself such a layer is replaced. Inside jit it costs
    nothing: it runs while tracing. Kernels of modules other than Linear, LinearGeneral and Conv
    become dense arrays, computed from their factors.

      module = orthojax.nn.low_rank(nnx.merge(graphdef, orthojax.bind(params, bases), rest))

    """
    if _has_factored_kernel(model) and isinstance(model, _LAYERS):
        return LowRank(model, model.kernel.get_value())
    for path, module in list(nnx.iter_modules(model)):
        if _has_factored_kernel(module) and isinstance(module, _LAYERS):
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


def refresh(method: OIALR, step: int, model: nnx.Module, optimizer: nnx.Optimizer, grads=None):
    """`OIALR.refresh` for a model and its `nnx.Optimizer` (of `nnx.Param`), both in place.

    Call it after every step, outside jit: it returns at once where nothing is due. A step under
    `nnx.jit` compiles anew when shapes have changed.

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
    params, bases, opt_state = method.refresh(
        step, params, bases_of(model), opt_state, optimizer.tx, grads
    )
    modules = {"/".join(map(str, path)): module for path, module in nnx.iter_modules(model)}
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
