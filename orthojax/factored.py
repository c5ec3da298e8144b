"""Kernels held as factors, W = U S V': the forward pass works in them and costs what the rank is.

While OIALR trains, `params` keeps its structure and has the core S [*batch, R, R] in the place of
the kernel W; `bases` is a dict {path of the kernel: Basis}. `bind` puts both together, for the
forward pass: a `Factored` stands where the kernel stood. The layers of `orthojax.nn` understand it,
and so does your own code that says `x @ kernel`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from orthojax.bases import Bases, Basis
from orthojax.linalg import matmul
from orthojax.matrices import map_named, named, replaced


def flops(n: int, p: int, rank: int) -> int:
    """Multiply-adds of a training step for each row of the input of a factored layer.

    2 r (n + p) + 3 r^2: forward x U S V', the gradient of x, that of S. (Dense: 3 n p.)
    """
    return 2 * rank * (n + p) + 3 * rank * rank


def pays(n: int, p: int, rank: int) -> bool:
    """Whether to multiply by the factors is cheaper than by their product."""
    return flops(n, p, rank) < 3 * n * p


def pays_for(n: int, p: int, rank: int, rows: int) -> bool:
    """The same for so many rows of input, which share the cost of the product: 2 p r (n + r)
    multiply-adds, for W and for the gradient of S from that of W."""
    return rows * flops(n, p, rank) < 3 * n * p * rows + 2 * p * rank * (n + rank)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["basis", "core"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Factored:
    """A kernel as factors, in the place of the kernel.

    Multiplies in the order that is cheaper in training, by its shapes alone: through the factors,
    or by W = U S V' computed anew in each step. Batch axes may have been sliced off, by scan or
    vmap.
    """

    basis: Basis
    core: jax.Array | None  # [*batch, R, R]; None: already part of a factor, see `absorb`

    def _sizes(self, axes):
        axes = (axes,) if isinstance(axes, int) else axes
        return tuple(self.basis.shape[a] for a in axes)

    @property
    def inputs(self) -> tuple[int, ...]:
        """Sizes of the axes of the kernel that are summed over."""
        return self._sizes(self.basis.axes.reduction)

    @property
    def outputs(self) -> tuple[int, ...]:
        """Sizes of the axes of the kernel that it yields."""
        return self._sizes(self.basis.axes.output)

    @property
    def in_order(self) -> bool:
        """Whether the kernel's axes are batch, inputs, outputs, as in Flax's layers."""
        permutation, _, _ = self.basis.axes._permutation(self.basis.shape)
        return permutation == list(range(len(permutation)))

    @property
    def pays(self) -> bool:
        """Whether the forward pass of many rows goes through the factors."""
        return self.core is None or pays(*self.basis.matrix_shape, self.basis.columns)

    def pays_for(self, rows: int) -> bool:
        """Whether the forward pass of so many rows goes through the factors."""
        if self.core is None:
            return True
        return pays_for(*self.basis.matrix_shape, self.basis.columns, rows)

    def sides(self) -> tuple[jax.Array, jax.Array | None, jax.Array]:
        """(A [*batch, inputs, R], S or None, B [*batch, outputs, R]) of the kernel A S B'."""
        u, v, core = self.basis.u, self.basis.v, self.core
        if math.prod(self.inputs) >= math.prod(self.outputs):
            return u, core, v
        return v, None if core is None else core.mT, u

    def matrix(self) -> jax.Array:
        """The kernel as [*batch, inputs, outputs], at least float32."""
        left, core, right = self.sides()
        if core is not None and left.shape[-2] <= right.shape[-2]:  # Into the smaller one.
            left = matmul(left, core)
        elif core is not None:
            right = matmul(right, core.mT)
        return matmul(left, right.mT)

    def dense(self) -> jax.Array:
        """The kernel in its own shape, at least float32."""
        w = self.matrix()
        if self.in_order:  # Also where a batch axis has been sliced off.
            return w.reshape(*w.shape[:-2], *self.inputs, *self.outputs)
        tall = w if math.prod(self.inputs) >= math.prod(self.outputs) else w.mT
        return self.basis.axes.unview(tall, self.basis.shape)

    def apply(self, x: jax.Array, dtype=None, precision=None) -> jax.Array:
        """x [..., *inputs] times the kernel: [..., *outputs], for one matrix.

        Args:
          x: the input of a layer.
          dtype: of the products; None: that of x and the factors together.
          precision: of the products, as in `jax.lax.dot`.
        """
        if self.basis.u.ndim != 2:
            raise ValueError(
                f"`Factored.apply` is for one matrix, this kernel of shape {self.basis.shape} is "
                "a batch of them: scan or vmap over it."
            )
        x = x.reshape(*x.shape[: x.ndim - len(self.inputs)], -1)
        left, core, right = self.sides()
        dtype = dtype or jnp.result_type(x, left)
        times = functools.partial(jnp.matmul, precision=precision)
        if self.pays_for(math.prod(x.shape[:-1])):
            x = times(x.astype(dtype), left.astype(dtype))
            if core is not None:
                x = times(x, core.astype(dtype))
            y = times(x, right.mT.astype(dtype))
        else:
            y = times(x.astype(dtype), self.matrix().astype(dtype))
        return y.reshape(*y.shape[:-1], *self.outputs)

    __array_ufunc__ = None  # Or NumPy's arrays would not ask for the product below.

    def __rmatmul__(self, x):
        if not self.in_order:  # `apply` sums over the axes that `MatrixAxes` says.
            return jnp.matmul(x, self.dense())
        return self.apply(jnp.asarray(x))


def is_factored(x: Any) -> bool:
    """Whether `x` is a `Factored`; for `is_leaf`."""
    return isinstance(x, Factored)


def bind(params: chex.ArrayTree, bases: Bases) -> chex.ArrayTree:
    """The tree for the forward pass: `Factored` kernels where there are bases.

    No gradient reaches the bases, so that none is computed. With no bases this is `params`.

    >>> import jax.numpy as jnp, optax, orthojax
    >>> params = {"kernel": jnp.ones((8, 4)), "bias": jnp.zeros(4)}
    >>> params, bases, _ = orthojax.OIALR(delay=0, every=10).convert(params)
    >>> bound = orthojax.bind(params, bases)
    >>> (jnp.ones((3, 8)) @ bound["kernel"] + bound["bias"]).shape
    (3, 4)
    """
    missing = bases.keys() - named(params).keys()
    if missing:
        raise ValueError(f"`bases` are of parameters that `params` lacks: {sorted(missing)}.")

    def one(name, leaf):
        return Factored(jax.lax.stop_gradient(bases[name]), leaf) if name in bases else leaf

    return map_named(one, params)


def materialize(params: chex.ArrayTree, bases: Bases, dtype=None) -> chex.ArrayTree:
    """The dense params, as the model had them before: for export, or for code that knows no
    factors.

    Args:
      params: with cores in the place of kernels.
      bases: of these.
      dtype: of the kernels; None: float32, or float64 where the cores are.
    """

    def one(_, leaf):
        if not is_factored(leaf):
            return leaf
        w = leaf.dense()
        return w if dtype is None else w.astype(dtype)

    return map_named(one, bind(params, bases), is_leaf=is_factored)


def absorb(params: chex.ArrayTree, bases: Bases) -> chex.ArrayTree:
    """The tree for serving: kernels of two factors, r (n + p) numbers, S inside the smaller one.

    Cut to the rank (of a stack: its largest), on concrete arrays only; kernels for which two
    factors are not smaller than n p come back dense.
    """

    def one(name, leaf):
        if name not in bases:
            return leaf
        basis = bases[name]
        rank = int(jnp.max(basis.rank))
        n, p = basis.matrix_shape
        if rank * (n + p) >= n * p:
            return Factored(basis, leaf).dense()
        u, v, core = basis.u[..., :rank], basis.v[..., :rank], leaf[..., :rank, :rank]
        return Factored(dataclasses.replace(basis, u=u, v=matmul(v, core.mT)), None)

    return map_named(one, params)


def basis_gradients(
    loss: Callable[[chex.ArrayTree], jax.Array], params: chex.ArrayTree, bases: Bases
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """{path: (dL/dU, dL/dV)} = (G V S', G' U S) for G = dL/dW, without G: what `OIALR(grow=...)`
    takes its new directions from.

    Args:
      loss: bound params -> scalar, on one batch or several.
      params: with cores in the place of kernels.
      bases: of these.
    """

    def of_factors(factors):
        kernels = {
            name: Factored(dataclasses.replace(bases[name], u=u, v=v), core)
            for (name, (u, v)), core in zip(
                factors.items(), (named(params)[name] for name in factors), strict=True
            )
        }
        return loss(replaced(params, kernels))

    return jax.grad(of_factors)({name: (basis.u, basis.v) for name, basis in bases.items()})


def size_report(params: chex.ArrayTree, bases: Bases) -> dict[str, Any]:
    """What the low rank saves and what it does not, as parts of the dense model, on the host.

    Returns:
      trainable: numbers that are trained, r^2 a kernel. It misleads when alone: a transformer
        shows a third right after the conversion at full rank, with nothing saved.
      stored: numbers of a checkpoint of the model, r (n + p) + r^2 a kernel.
      served: the same after `absorb`, r (n + p) or n p.
      flops: multiply-adds of a training step in the kernels of `bases`, as they are allocated,
        every kernel seeing as many rows.
      ranks: {path: rank, or list of the ranks of a stack}.
    """
    cores = named(params)
    kernels = {name: math.prod(basis.shape) for name, basis in bases.items()}
    others = sum(leaf.size for name, leaf in cores.items() if name not in bases)
    dense = others + sum(kernels.values())
    trainable = stored = served = others
    spent = 0
    all_ranks = {}
    for name, basis in bases.items():
        n, p = basis.matrix_shape
        ranks = jax.device_get(basis.rank)
        all_ranks[name] = ranks.tolist()
        for rank in map(int, ranks.reshape(-1)):
            trainable += rank**2
            stored += rank * (n + p) + rank**2
            served += min(rank * (n + p), n * p)
        spent += basis.count * min(flops(n, p, basis.columns), 3 * n * p)
    return {
        "trainable": trainable / dense,
        "stored": stored / dense,
        "served": served / dense,
        "flops": spent / (3 * sum(kernels.values())) if kernels else 1.0,
        "ranks": all_ranks,
    }
