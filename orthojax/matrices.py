"""Which axes of a parameter are the rows and columns of a matrix, and which parameters are matrices
at all.

The view of a leaf is `(*batch, n, p)`, n >= p. Everything behind it sees tall matrices only; what a
leaf is (a dense or convolution kernel, an attention projection, a stack of layers) is said here,
once.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from orthojax.batches import in_batches
from orthojax.linalg import at_least_float32


class MatrixAxes(NamedTuple):
    """The axes of a leaf that a matrix sums over and those that it yields; every other axis is
    batch.

    As in `optax.contrib.MuonDimensionNumbers`. Axes may be negative.

    Attributes:
      reduction: axis or axes of the input, flattened in this order.
      output: axis or axes of the output, flattened in this order.
      blocks: of how many matrices, side by side, the last output axis is made: 3 for queries, keys
        and values in one kernel, or the number of heads; then these are batch as well.

    >>> import jax.numpy as jnp
    >>> MatrixAxes((0, 1, 2), 3).view(jnp.ones((3, 3, 16, 32))).shape  # Convolution, HWIO.
    (144, 32)
    >>> MatrixAxes(0, (1, 2)).view(jnp.ones((8, 2, 3))).shape  # Query (E, H, D), all heads.
    (8, 6)
    >>> MatrixAxes(0, 2).view(jnp.ones((8, 2, 3))).shape  # The same, one matrix a head.
    (2, 8, 3)
    >>> MatrixAxes(0, 1, blocks=3).view(jnp.ones((8, 24))).shape  # Three in one kernel.
    (3, 8, 8)
    >>> MatrixAxes(-2, -1).view(jnp.ones((12, 16, 64))).shape  # A stack, wide: transposed.
    (12, 64, 16)
    """

    reduction: int | Sequence[int] = 0
    output: int | Sequence[int] = 1
    blocks: int = 1

    def _permutation(self, shape):
        axes = [[a] if isinstance(a, int) else list(a) for a in self[:2]]
        ndim = len(shape)
        used = [a + ndim if a < 0 else a for a in axes[0] + axes[1]]
        if len(set(used)) < len(used) or not set(used) <= set(range(ndim)) or not all(axes):
            raise ValueError(
                "`MatrixAxes` names at least one reduction and one output axis, each once and "
                f"within the shape; got {self} for shape {tuple(shape)}."
            )
        batch = [a for a in range(ndim) if a not in used]
        return batch + used, len(batch), len(axes[0])

    def split(self, shape: Sequence[int]) -> tuple["MatrixAxes", tuple[int, ...]]:
        """Axes without blocks, and the shape with one more axis for them: a reshape of the leaf."""
        if self.blocks == 1:
            return self, tuple(shape)
        permutation, batch, inputs = self._permutation(shape)
        last = permutation[-1]
        if self.blocks < 1 or shape[last] % self.blocks:
            raise ValueError(
                f"`blocks` of `MatrixAxes` divide the last output axis, axis {last} of shape "
                f"{tuple(shape)}; got {self.blocks}."
            )
        moved = [a + (a >= last) for a in permutation[batch:]]
        sizes = (*shape[:last], self.blocks, shape[last] // self.blocks, *shape[last + 1 :])
        return MatrixAxes(tuple(moved[:inputs]), tuple(moved[inputs:])), sizes

    def batch(self, shape: Sequence[int]) -> list[int]:
        """The batch axes of a leaf of `shape`, once it is reshaped as `split` says."""
        axes, shape = self.split(shape)
        permutation, batch, _ = axes._permutation(shape)
        return permutation[:batch]

    def batch_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The batch part of the shape of the view of a leaf of `shape`."""
        axes, shape = self.split(shape)
        return tuple(shape[a] for a in axes.batch(shape))

    def matrix_shape(self, shape: Sequence[int]) -> tuple[int, int]:
        """(n, p) of the view of a leaf of `shape`."""
        axes, shape = self.split(shape)
        permutation, batch, inputs = axes._permutation(shape)
        rows = math.prod(shape[a] for a in permutation[batch : batch + inputs])
        columns = math.prod(shape[a] for a in permutation[batch + inputs :])
        return max(rows, columns), min(rows, columns)

    def matrix(self, x: jax.Array) -> jax.Array:
        """`x` as matrices `(*batch, inputs, outputs)`, tall or wide."""
        axes, shape = self.split(x.shape)
        permutation, batch, inputs = axes._permutation(shape)
        x = jnp.transpose(x.reshape(shape), permutation)
        rows = math.prod(x.shape[batch : batch + inputs])
        return x.reshape(*x.shape[:batch], rows, -1)

    def unmatrix(self, matrix: jax.Array, shape: Sequence[int]) -> jax.Array:
        """Inverse of `matrix` for a leaf of `shape`."""
        axes, sizes = self.split(shape)
        permutation, _, _ = axes._permutation(sizes)
        inverse = sorted(range(len(sizes)), key=permutation.__getitem__)
        matrix = matrix.reshape([sizes[a] for a in permutation])
        return jnp.transpose(matrix, inverse).reshape(shape)

    def view(self, x: jax.Array) -> jax.Array:
        """`x` as tall matrices `(*batch, n, p)`."""
        x = self.matrix(x)
        return x if x.shape[-2] >= x.shape[-1] else x.mT

    def unview(self, matrix: jax.Array, shape: Sequence[int]) -> jax.Array:
        """Inverse of `view` for a leaf of `shape`."""
        axes, sizes = self.split(shape)
        permutation, batch, inputs = axes._permutation(sizes)
        permuted = [sizes[a] for a in permutation]
        if math.prod(permuted[batch : batch + inputs]) < math.prod(permuted[batch + inputs :]):
            matrix = matrix.mT
        return self.unmatrix(matrix, shape)


Rules = Sequence[tuple[str, Any]]

KERNELS = ((r"(.*/)?kernel", "orthogonal"), (".*", "free"))  # of `orthojax.orthogonal`

# The kernels of Flax, in Linen and NNX.
_ATTENTION_IN = MatrixAxes(0, (1, 2))  # (E, H, D)
_ATTENTION_OUT = MatrixAxes((0, 1), 2)  # (H, D, E)
_FLAX_ATTENTION = (
    (r"(.*/)?(query|key|value)/kernel", _ATTENTION_IN),
    (r"(.*/)?out/kernel", _ATTENTION_OUT),
)


def path_name(path: tuple) -> str:
    """The path of a leaf as "block/dense/kernel", the same for dicts, FrozenDict and
    `nnx.State`."""
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return name.removesuffix("/value")  # The leaf of an `nnx.Variable`.


def map_named(f: Callable[..., Any], params: Any, is_leaf: Any = None) -> Any:
    """Tree of f(name of the leaf, leaf)."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: f(path_name(path), leaf), params, is_leaf=is_leaf
    )


def named(params: Any, is_leaf: Any = None) -> dict[str, Any]:
    """{name of the leaf: leaf}, in the order of the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(params, is_leaf=is_leaf)
    return {path_name(path): leaf for path, leaf in leaves}


def replaced(params: Any, leaves: dict[str, Any]) -> Any:
    """`params` with the named leaves replaced."""
    return map_named(lambda name, leaf: leaves.get(name, leaf), params)


def pairs(rules: Rules) -> Rules:
    """`rules` as they are; raises a ValueError that says what is wrong with them."""
    for rule in [rules] if isinstance(rules, (str, Mapping)) else rules:
        try:
            pattern, _ = rule
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"Rule {pattern!r} is no regular expression: {error}.") from error
        except (TypeError, ValueError) as error:
            raise ValueError(
                "Rules are a sequence of pairs (regular expression of a whole path, value), "
                f"got {rule!r}."
            ) from error
    return rules


def first_match(rules: Rules, name: str, leaf: Any) -> Any:
    """The value of the first rule (regular expression of the whole path, value) that matches the
    leaf called `name`."""
    for pattern, value in pairs(rules):
        if re.fullmatch(pattern, name):
            return value
    raise ValueError(
        f"No rule matches parameter {name!r} of shape {tuple(leaf.shape)}; the rules are "
        f'{[pattern for pattern, _ in rules]}. Add one, or (".*", ...) as the last.'
    )


def label_by_path(rules: Rules) -> Callable[[Any], Any]:
    """params -> tree of labels for `optax.partition`: that of the first rule (pattern, label)
    matching a leaf's path.

    >>> label = label_by_path([(".*kernel", "orthogonal"), (".*", "free")])
    >>> label({"dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}})
    {'dense': {'bias': 'free', 'kernel': 'orthogonal'}}
    """
    return lambda params: map_named(lambda name, leaf: first_match(rules, name, leaf), params)


def default_axes(name: str, leaf: Any) -> MatrixAxes:
    """The axes of a Flax kernel by its rank, and of attention kernels by their names.

    A dense kernel [in, out]; a convolution [height, width, in, out], window and inputs by outputs;
    of attention all heads as one matrix: query, key and value [E, H, D] as E x HD, out [H, D, E] as
    HD x E. Where a stack of layers looks like another layer, the shape is an error.
    """
    attention = next((axes for p, axes in _FLAX_ATTENTION if re.fullmatch(p, name)), None)
    if leaf.ndim == 2:
        return MatrixAxes(0, 1)
    if leaf.ndim == 3 and attention:
        return attention
    if leaf.ndim == 4 and not attention:
        return MatrixAxes((0, 1, 2), 3)
    hints = {
        3: "MatrixAxes(-2, -1) for a stack of layers [layers, in, out], MatrixAxes((0, 1), 2) for "
        "a convolution [width, in, out]",
        4: "for a stack of attention layers MatrixAxes(-3, (-2, -1)) for query, key and value "
        "[layers, E, H, D], MatrixAxes((-3, -2), -1) for out [layers, H, D, E]; MatrixAxes((0, 1, "
        "2), 3) for a convolution",
        5: "MatrixAxes((0, 1, 2, 3), 4) for a convolution in three dimensions, MatrixAxes((-4, -3, "
        "-2), -1) for a stack of convolutions [layers, height, width, in, out]",
    }
    hint = (
        f"Say which it is: {hints.get(leaf.ndim, 'a MatrixAxes')}."
        if leaf.ndim > 2
        else "It is no matrix: keep it out by `optax.partition`, `optax.masked` or the rules of "
        "`orthojax.orthogonal`."
    )
    raise ValueError(
        f"Parameter {name!r} of shape {tuple(leaf.shape)} has no default `axes`. {hint}"
    )


def axes_of(name: str, leaf: Any, axes: MatrixAxes | Rules | None) -> MatrixAxes:
    """What the argument `axes` of a transformation says of one leaf: one for all, rules by path, or
    the default.

    A rule's value None stands for the default.
    """
    if axes is not None and not isinstance(axes, MatrixAxes):
        axes = first_match(axes, name, leaf)
    return default_axes(name, leaf) if axes is None else axes


def constrained(params: Any, rules: Rules) -> dict[str, tuple[Any, MatrixAxes]]:
    """{path: (leaf, axes)} of the leaves that `rules`, those of `orthojax.orthogonal`, make
    orthogonal; raises a ValueError for a leaf that no rule covers."""
    chosen = {}
    for name, leaf in named(params).items():
        value = first_match(rules, name, leaf)
        if value != "free":
            chosen[name] = leaf, axes_of(name, leaf, None if value == "orthogonal" else value)
    return chosen


class Views(NamedTuple):
    """The leaves of a params tree as tall matrices: the border of every transformation.

    "Trees" below have the structure of params, with anything in the place of its leaves.
    """

    treedef: Any
    axes: tuple[MatrixAxes, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, params: Any, axes: MatrixAxes | Rules | None) -> "Views":
        """The views of `params`, with `axes` as in `axes_of`."""
        leaves, treedef = jax.tree_util.tree_flatten_with_path(params)
        return cls(
            treedef,
            tuple(axes_of(path_name(path), leaf, axes) for path, leaf in leaves),
            tuple(leaf.shape for _, leaf in leaves),
        )

    def matrices(self, tree: Any) -> Any:
        """Tree of `(*batch, n, p)`, in at least float32, of a tree of arrays shaped like params."""
        leaves = self.treedef.flatten_up_to(tree)
        return self.treedef.unflatten(
            [
                a.view(at_least_float32(jnp.asarray(x)))
                for a, x in zip(self.axes, leaves, strict=True)
            ]
        )

    def unview(self, matrices: Any, like: Any) -> Any:
        """Inverse of `matrices`, in the dtypes of the tree `like`."""
        columns = map(self.treedef.flatten_up_to, (matrices, like))
        return self.treedef.unflatten(
            [
                a.unview(x, shape).astype(jnp.asarray(y).dtype)
                for a, shape, x, y in zip(self.axes, self.shapes, *columns, strict=True)
            ]
        )

    def moves(self, params: Any, matrices: Any) -> Any:
        """Tree of the updates that take `params` to `matrices`, in the dtypes of `params`."""
        # Rounded first: the difference of two neighbours in a low precision is exact in it.
        return jax.tree.map(lambda new, old: new - old, self.unview(matrices, params), params)

    def map(self, f: Callable[..., Any], *trees: Any, outputs: int | None = None) -> Any:
        """Tree of f(*leaves) on trees of pytrees that lead with the batch axes.

        With `outputs`, f returns a tuple of this length, and the result is a tuple of trees.

        Leaves of one matrix shape are computed as one batch: a hundred layers of one shape are one
        call of f on `(100, n, p)`, and compile as one.
        """
        rows = list(zip(*map(self.treedef.flatten_up_to, trees), strict=True))
        batches = [
            axes.batch_shape(shape) for axes, shape in zip(self.axes, self.shapes, strict=True)
        ]
        results = in_batches(f, rows, batches)
        if outputs is None:
            return self.treedef.unflatten(results)
        columns = ([result[k] for result in results] for k in range(outputs))
        return tuple(map(self.treedef.unflatten, columns))
