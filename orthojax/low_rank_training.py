"""OIALR: when kernels become factors, when their bases turn, and how their ranks fall.

The one core of both faces: `orthojax.oialr` (latent, an Optax transformation) and the factored one,
`OIALR.refresh` between the steps of your own loop.
"""

import dataclasses
import functools
import logging
from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from orthojax import bases as core
from orthojax import ranks
from orthojax.bases import Bases
from orthojax.factored import flops
from orthojax.linalg import at_least_float32
from orthojax.matrices import (
    MatrixAxes,
    Rules,
    axes_of,
    default_axes,
    first_match,
    named,
    replaced,
)
from orthojax.moments import map_moments, require_elementwise

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OIALR:
    """Orthogonality-informed adaptive low rank (Coquelin et al. 2024, arXiv:2401.08505).

    After `delay` updates at full rank each kernel is W = U S V' with the singular bases U, V of W
    frozen, and only the core S [r, r] is trained, by the same optimizer. Every `every` updates
    from then on the bases turn to the singular vectors of the current W, U <- U P, V <- V Q for
    S = P s Q', and small singular values go. Unlike in the authors' code the moments of the
    optimizer turn with the bases and are never reset, and biases go on being trained.

    Args:
      delay: updates at full rank, or a fraction in [0, 1) of `steps`; the paper takes about a
        third.
      every: updates between changes of the bases.
      cutoff: singular values below `cutoff` times the largest go; in [0, 1). Not used with `rank`.
      steps: updates of the whole run; needed for a `delay` that is a fraction.
      rules: (pattern, "low_rank" | "dense" | MatrixAxes) over parameter paths, first match wins, or
        one MatrixAxes for all; None: all leaves with the axes of a Flax kernel
        (`matrices.default_axes`; an error for other 3-D kernels) of which the short side is more
        than a tenth of the long one, as in the paper; no embeddings, biases, scales.
      order: paths of the kernels from first to last layer, as `call_order` finds them; for the
        three options below.
      keep_first, keep_last: leave the first or last of the chosen kernels dense (the paper keeps
        the last).
      open: fraction of the kernels that each change opens to turning and truncation, last layers
        first (the paper: 0.1); 1: all at once.
      max_drop: largest part of a rank that one change may drop (the paper: 0.5); 1: no limit.
      floor: smallest rank as a part of p (the paper: 0.01); never below 1.
      rank: another rule, e.g. `ranks.energy(0.99)`, `ranks.stable_rank()`, `ranks.budget(0.16)`.
      grow: number of directions that each change but the first adds to the bases: those of the
        steepest descent outside their span, with S = 0 there, so that W stays.
      compact: reallocate arrays for smaller ranks, at the cost of a compilation, when that saves
        at least this part of the multiply-adds in the kernels; None: never. At `delay` always, and
        where `grow` needs room.

    >>> import jax.numpy as jnp, optax, orthojax
    >>> method = orthojax.OIALR(delay=0.3, steps=1000, every=100, cutoff=0.1)
    >>> params, tx = {"kernel": jnp.eye(8)}, optax.adam(1e-3)
    >>> bases, opt_state = {}, tx.init(params)
    >>> params, bases, opt_state = method.refresh(300, params, bases, opt_state, tx)
    >>> params["kernel"].shape, method.is_due(350), method.is_due(400)
    ((8, 8), False, True)
    """

    delay: int | float
    every: int
    cutoff: float = 0.1
    steps: int | None = None
    rules: Rules | MatrixAxes | None = None
    order: Sequence[str] = ()
    keep_first: bool = False
    keep_last: bool = False
    open: float = 1.0
    max_drop: float = 1.0
    floor: float = 0.0
    rank: ranks.Rule | None = None
    grow: int = 0
    compact: float | None = 0.2

    def __post_init__(self):
        def require(name, fine, what):
            value = getattr(self, name)
            if not isinstance(value, jax.core.Tracer) and not fine(value):
                raise ValueError(f"`{name}` {what}, got {value!r}.")

        whole = lambda x: isinstance(x, int | np.integer) and not isinstance(x, bool)
        if whole(self.delay):
            require("delay", lambda x: x >= 0, "is a number of updates, 0 or more")
        else:
            require("delay", lambda x: 0 <= x < 1, "is a whole number or a fraction in [0, 1)")
            if self.steps is None:
                raise ValueError(
                    f"`delay` is the fraction {self.delay} of `steps`, which is missing: give the "
                    "number of updates of the run."
                )
        require("every", lambda x: whole(x) and x >= 1, "is a number of updates of at least 1")
        if self.steps is not None:
            require("steps", lambda x: whole(x) and x >= 1, "is a number of updates of at least 1")
            if self.delay_steps > self.steps:
                raise ValueError(
                    f"`delay` is past the end: {self.delay} updates at full rank of `steps` = "
                    f"{self.steps}."
                )
        require("open", lambda x: 0 < x <= 1, "is a fraction of the kernels in (0, 1]")
        require("max_drop", lambda x: 0 < x <= 1, "is a part of the rank in (0, 1]")
        require("floor", lambda x: 0 <= x < 1, "is a part of the full rank in [0, 1)")
        require("grow", lambda x: whole(x) and x >= 0, "is a number of directions, 0 or more")
        require("compact", lambda x: x is None or 0 <= x < 1, "is None or a part in [0, 1)")
        ranks.relative(self.cutoff)  # Checks the cutoff.
        # Hashable, since compiled programs depend on it.
        object.__setattr__(self, "order", tuple(self.order))
        rules = _hashable(self.rules)
        if rules is not None and not isinstance(rules, MatrixAxes):
            rules = tuple((pattern, _hashable(label)) for pattern, label in rules)
        object.__setattr__(self, "rules", rules)
        if not self.order and (self.keep_first or self.keep_last or self.open < 1):
            raise ValueError(
                "`keep_first`, `keep_last` and `open` need `order`, the paths of the kernels from "
                "first to last layer: orthojax.call_order(loss, params)."
            )

    @property
    def delay_steps(self) -> int:
        """`delay` in updates."""
        if isinstance(self.delay, int | np.integer):
            return self.delay
        return int(self.delay * self.steps + 1e-6)  # 0.29 of 100 is 28.999999999999996.

    def is_due(self, step: int) -> bool:
        """Whether the bases change after `step` updates."""
        since = step - self.delay_steps
        return since >= 0 and since % self.every == 0

    def changes(self, step):
        """Number of changes up to that after `step` updates, if one is due then."""
        return 1 + (step - self.delay_steps) // self.every

    def rewarmed(self, schedule: optax.ScalarOrSchedule, warmup: int) -> optax.Schedule:
        """`schedule` (or constant), multiplied from the conversion on by a linear warm-up of
        `warmup` updates after each change of bases, as ReLoRA has it (Lialin et al. 2023,
        arXiv:2307.05695): count -> learning rate.

        >>> schedule = OIALR(delay=100, every=50).rewarmed(1e-3, 10)
        >>> [round(float(schedule(count)), 6) for count in (99, 100, 104, 110, 150)]
        [0.001, 0.0001, 0.0005, 0.001, 0.0001]
        """
        if warmup < 1:
            raise ValueError(f"`warmup` is a number of updates of at least 1, got {warmup}.")
        schedule = schedule if callable(schedule) else optax.constant_schedule(schedule)

        def scheduled(count):
            since = (count - self.delay_steps) % self.every
            ramp = jnp.minimum(1.0, (since + 1) / warmup)
            return schedule(count) * jnp.where(count >= self.delay_steps, ramp, 1.0)

        return scheduled

    def select(self, params: chex.ArrayTree) -> dict[str, MatrixAxes]:
        """{path: axes} of the kernels that get low rank."""
        chosen = {}
        for name, leaf in named(params).items():
            axes = _axes(name, leaf, self.rules)
            if axes is not None:
                chosen[name] = _hashable(axes)
        if self.order:
            unknown = chosen.keys() - set(self.order)
            if unknown:
                raise ValueError(f"`order` lacks the kernels {sorted(unknown)}.")
            chosen = {name: chosen[name] for name in self.order if name in chosen}
        names = list(chosen)
        for name in names[:1] * self.keep_first + names[-1:] * self.keep_last:
            chosen.pop(name, None)
        if not chosen:
            shapes = {name: tuple(leaf.shape) for name, leaf in named(params).items()}
            raise ValueError(f"`rules` choose none of the parameters {shapes} for low rank.")
        return chosen

    def convert(
        self,
        params: chex.ArrayTree,
        opt_state: optax.OptState = None,
        inner: optax.GradientTransformation | None = None,
    ) -> tuple[chex.ArrayTree, Bases, optax.OptState]:
        """Kernels become factors: (params with cores, bases, opt_state of these).

        Raises ValueError for a kernel that is not finite; nothing has changed then. Cost: one SVD
        a kernel, batched over equal shapes.
        """
        axes = self.select(params)
        finite = jax.device_get(_are_finite({name: named(params)[name] for name in axes}))
        bad = [name for name, fine in finite.items() if not fine]
        if bad:
            raise ValueError(f"`params` are not finite at the conversion to low rank: {bad}.")
        if inner is not None:
            require_elementwise(inner, params)
        new = _convert(self, inner, params, opt_state)
        return self._compacted(*new, inner, always=True)

    def abstract(
        self, params: chex.ArrayTree, columns: dict[str, int]
    ) -> tuple[chex.ArrayTree, Bases]:
        """`jax.ShapeDtypeStruct`s of params with cores, and of bases: the target to restore a
        checkpoint into, whose ranks are known when it is opened only.

        Args:
          params: the dense params, arrays or shapes.
          columns: {path: `Basis.columns`}, saved beside the checkpoint; {} before the conversion.

        Raises:
          ValueError: for kernels or ranks that this method and these params cannot have.
        """
        if not columns:
            return params, {}
        axes = self.select(params)
        if axes.keys() != columns.keys():
            raise ValueError(
                f"`columns` are of the kernels {sorted(columns)}, low rank here are {sorted(axes)}."
            )
        leaves, cores, bases = named(params), {}, {}
        for name, a in axes.items():
            leaf, rank = leaves[name], columns[name]
            n, p = a.matrix_shape(leaf.shape)
            if not 1 <= rank <= p:
                raise ValueError(f"`columns` of {name!r} lie between 1 and {p}, got {rank}.")
            batch = a.batch_shape(leaf.shape)
            array = functools.partial(
                jax.ShapeDtypeStruct, dtype=jnp.promote_types(leaf.dtype, jnp.float32)
            )
            bases[name] = core.Basis(
                array((*batch, n, rank)),
                array((*batch, p, rank)),
                jax.ShapeDtypeStruct(batch, jnp.int32),
                a,
                tuple(leaf.shape),
            )
            cores[name] = array((*batch, rank, rank))
        return replaced(params, cores), bases

    def refresh(
        self,
        step: int,
        params: chex.ArrayTree,
        bases: Bases,
        opt_state: optax.OptState,
        inner: optax.GradientTransformation,
        grads: dict[str, tuple[jax.Array, jax.Array]] | None = None,
    ) -> tuple[chex.ArrayTree, Bases, optax.OptState]:
        """What happens after `step` updates: nothing, the conversion, or a change of bases.

        Call it after every update, on the host: shapes change at the conversion and when smaller
        ranks pay (`compact`), so that a jitted step compiles anew then, and only then.

        Args:
          step: number of updates done.
          params: dense before `delay`, then with cores in the place of kernels.
          bases: {} before `delay`.
          opt_state: state of `inner` for `params`.
          inner: the optimizer, any that keeps arrays of the shape of the parameter only.
          grads: `basis_gradients` of a batch, for `grow`.
        """
        if not self.is_due(step):
            return params, bases, opt_state
        if not bases:
            return self.convert(params, opt_state, inner)
        if self.grow and grads is None:
            raise ValueError("`grow` needs `grads`, the basis_gradients of a batch.")
        new = _turn(self, inner, self.changes(step), params, bases, opt_state, grads)
        params, bases, opt_state, healthy = new
        for name, fine in jax.device_get(healthy).items():
            if not np.all(fine):
                _log.warning("SVD of %s is not finite at step %d: old basis kept.", name, step)
        return self._compacted(params, bases, opt_state, inner)

    def _compacted(self, params, bases, opt_state, inner, always=False):
        needed = {name: int(np.max(r)) for name, r in jax.device_get(_ranks(bases)).items()}
        allocated = {name: basis.columns for name, basis in bases.items()}
        sizes = {
            name: bucket(needed[name] + self.grow, basis.matrix_shape[1])
            for name, basis in bases.items()
        }
        if self.compact is None or sizes == allocated:
            return params, bases, opt_state
        always |= any(sizes[name] > columns for name, columns in allocated.items())
        now = sum(_cost(basis, basis.columns) for basis in bases.values())
        then = sum(_cost(basis, sizes[name]) for name, basis in bases.items())
        if not always and then > (1 - self.compact) * now:
            return params, bases, opt_state
        return _compact(inner, tuple(sizes.items()), params, bases, opt_state)


def _hashable(label):
    if not isinstance(label, MatrixAxes):
        return label
    return MatrixAxes(*(a if isinstance(a, int) else tuple(a) for a in label))


# Flax's names of what may have two axes without being a map: biases of attention heads are [H, D].
_NO_KERNELS = ("bias", "scale", "embedding")


def _axes(name, leaf, rules) -> MatrixAxes | None:
    """The axes of a leaf that gets low rank, else None."""
    if rules is None:
        kind = name.rpartition("/")[2]
        if leaf.ndim < 2 or kind in _NO_KERNELS or (leaf.ndim == 3 and kind != "kernel"):
            return None
        axes = default_axes(name, leaf)
        n, p = axes.matrix_shape(leaf.shape)
        return axes if 10 * p > n and p > 1 else None
    label = rules if isinstance(rules, MatrixAxes) else first_match(rules, name, leaf)
    if label == "dense":
        return None
    if not isinstance(label, MatrixAxes) and label not in ("low_rank", None):
        raise ValueError(
            f'`rules` give "low_rank", "dense" or a MatrixAxes; got {label!r} for {name!r}.'
        )
    axes = label if isinstance(label, MatrixAxes) else axes_of(name, leaf, None)
    if axes.blocks > 1:
        raise ValueError(
            f"Low rank is of whole kernels, without `blocks`; got {axes} for {name!r}."
        )
    n, p = axes.matrix_shape(leaf.shape)
    if p < 2:
        raise ValueError(
            f"Parameter {name!r} of shape {tuple(leaf.shape)} is too thin for low rank, a matrix "
            f'of {n} x {p}; make it "dense" in `rules`.'
        )
    return axes


def bucket(rank: int, columns: int) -> int:
    """The rank to allocate for `rank`: rounded up, so that few programs serve many ranks."""
    multiple = 128 if columns >= 1024 else 64 if columns >= 512 else 16 if columns >= 64 else 1
    return min(columns, -(-rank // multiple) * multiple)


def _cost(basis, rank):
    n, p = basis.matrix_shape
    return basis.count * min(flops(n, p, rank), 3 * n * p)


@jax.jit
def _are_finite(kernels):
    return jax.tree.map(lambda x: jnp.all(jnp.isfinite(x)), kernels)


def _ranks(bases):
    return {name: basis.rank for name, basis in bases.items()}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _convert(method, inner, params, opt_state):
    axes = method.select(params)
    leaves = named(params)
    kernels = {name: a.view(at_least_float32(leaves[name])) for name, a in axes.items()}
    shapes = {name: (a, tuple(leaves[name].shape)) for name, a in axes.items()}
    bases, cores = core.convert(method, kernels, shapes)
    if inner is not None:
        tree = core.spread(params, bases)
        opt_state = map_moments(inner, core.moment_of_core, opt_state, tree)
        # In the precision in which `inner` goes on with them, or the next step compiles twice.
        like = jax.eval_shape(inner.init, replaced(params, cores))
        cast = lambda x, y: x if x.dtype == y.dtype else x.astype(y.dtype)
        opt_state = jax.tree.map(cast, opt_state, like)
    return replaced(params, cores), bases, opt_state


@functools.partial(jax.jit, static_argnums=(0, 1))
def _turn(method, inner, change, params, bases, opt_state, grads):
    cores = {name: leaf for name, leaf in named(params).items() if name in bases}
    new, cores, healthy = core.turn(method, change, bases, cores, grads)
    old_tree, new_tree = core.spread(params, bases), core.spread(params, new)
    opt_state = map_moments(inner, core.turned_moment, opt_state, old_tree, new_tree)
    return replaced(params, cores), new, opt_state, healthy


@functools.partial(jax.jit, static_argnums=(0, 1))
def _compact(inner, sizes, params, bases, opt_state):
    sizes = dict(sizes)

    def resized(x, *last):
        """`x` with `last` axes of these sizes, cut or padded by zeros."""
        x = x[(..., *map(slice, last))]
        more = [(0, size - now) for size, now in zip(last, x.shape[-len(last) :], strict=True)]
        return jnp.pad(x, [(0, 0)] * (x.ndim - len(last)) + more)

    def moment(m, squared, size):
        return resized(m, size, size) if isinstance(size, int) and m.ndim else m

    cores = {
        name: resized(leaf, sizes[name], sizes[name])
        for name, leaf in named(params).items()
        if name in sizes
    }
    if inner is not None:
        tree = core.spread(params, sizes)
        opt_state = map_moments(inner, moment, opt_state, tree)
    bases = {
        name: dataclasses.replace(
            basis, u=resized(basis.u, sizes[name]), v=resized(basis.v, sizes[name])
        )
        for name, basis in bases.items()
    }
    return replaced(params, cores), bases, opt_state
