"""Frozen orthonormal bases around trained cores, W = U S V', for all kernels of a model at once.

Kernels are a dict {path: array}; SVDs are batched over equal shapes. All is jit-safe and keeps the
shapes: what falls off is zero until `OIALR.refresh` reallocates.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import optax

from orthojax import ranks
from orthojax.linalg import eye_like, frobenius, matmul
from orthojax.matrices import MatrixAxes, in_batches, map_named


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["u", "v", "rank"],
    meta_fields=["axes", "shape"],
)
@dataclasses.dataclass(frozen=True)
class Basis:
    """The frozen bases of one kernel, seen as a tall matrix W = U S V'.

    Columns of U and V from `rank` on are zero, and so stays that part of the core.
    """

    u: jax.Array  # [*batch, n, R], float32 or float64
    v: jax.Array  # [*batch, p, R]
    rank: jax.Array  # [*batch] int32
    axes: MatrixAxes  # of the kernel
    shape: tuple[int, ...]  # of the kernel

    @property
    def columns(self) -> int:
        """R, the rank that is allocated."""
        return self.u.shape[-1]

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """(n, p)."""
        return self.u.shape[-2], self.v.shape[-2]

    @property
    def count(self) -> int:
        """The number of matrices in the kernel."""
        return math.prod(self.u.shape[:-2])


Bases = dict[str, Basis]


def compose(basis: Basis, core: jax.Array) -> jax.Array:
    """U S V', [*batch, n, p]."""
    return matmul(matmul(basis.u, core), basis.v.mT)


def pull_back(basis: Basis, grad: jax.Array) -> jax.Array:
    """U' G V, the gradient of the core for G = dL/dW [*batch, n, p]."""
    return matmul(matmul(basis.u.mT, grad), basis.v)


def spread(params, leaves):
    """Tree like `params` with the named `leaves`, and `optax.MaskedNode()` elsewhere."""
    return map_named(lambda name, _: leaves.get(name, optax.MaskedNode()), params)


def _by_shape(f, arrays, outputs):
    """{name: f(array)} for arrays [*batch, a, b], one call for each (a, b); a dict an output."""
    names = list(arrays)
    batches = [arrays[name].shape[:-2] for name in names]
    results = in_batches(f, [(arrays[name],) for name in names], batches)
    return tuple({n: r[k] for n, r in zip(names, results, strict=True)} for k in range(outputs))


def _svd(w):
    u, s, vt = jnp.linalg.svd(w, full_matrices=False)
    return u, s, vt.mT


def _columns(keep, new, old=0):
    return jnp.where(keep[..., None, :], new, old)


def _opened(method, change, names):
    """{name: whether `method` lets this change touch it}: the last kernels of its order first."""
    in_order = [name for name in method.order if name in names] or list(names)
    # The rounding of the product must not open one more.
    opened = jnp.ceil(method.open * change * len(names) - 1e-3)
    return {name: len(names) - i <= opened for i, name in enumerate(in_order)}


def _new_ranks(method, spectra, opened):
    """{name: rank} by the rule of `method` and its limits; closed kernels keep theirs."""
    rule = method.rank or ranks.relative(method.cutoff)
    wanted = rule(list(spectra.values()))
    new = {}
    for (name, x), rank in zip(spectra.items(), wanted, strict=True):
        rank = ranks.limited(rank, x.rank, x.shape[1], method.max_drop, method.floor)
        new[name] = jnp.where(opened[name], rank, x.rank)
    return new


def convert(method, kernels, shapes):
    """The singular bases of kernels [*batch, n, p] and their cores, after the first truncation.

    Args:
      method: an `OIALR`.
      kernels: {name: W as tall matrices, at least float32}, in its `order`.
      shapes: {name: (axes, shape of the parameter)}.

    Returns:
      {name: Basis} and {name: core [*batch, p, p]}.
    """
    u, s, v = _by_shape(_svd, kernels, 3)
    spectra = {
        name: ranks.Spectrum(s[name], jnp.full(w.shape[:-2], w.shape[-1], jnp.int32), w.shape[-2:])
        for name, w in kernels.items()
    }
    bases, cores = {}, {}
    for name, rank in _new_ranks(method, spectra, _opened(method, 1, list(kernels))).items():
        keep = ranks.inside(rank, s[name].shape[-1])
        bases[name] = Basis(_columns(keep, u[name]), _columns(keep, v[name]), rank, *shapes[name])
        cores[name] = jnp.where(keep, s[name], 0)[..., None, :] * eye_like(v[name])
    return bases, cores


def _svd_inside(core, rank):
    """SVD of the leading `rank` x `rank` part of a core that is zero elsewhere, as a padded one.

    Where the core itself is singular, its null space and the padding would mix. A diagonal that is
    larger than the core holds the padding apart: those singular values come first.
    """
    columns = core.shape[-1]
    inside = ranks.inside(rank, columns)
    largest = frobenius(core)
    diagonal = jnp.where(inside, 0, jnp.where(largest > 0, 2 * largest, 1)[..., None])
    p, s, q = _svd(core + diagonal[..., None, :] * eye_like(core))
    index = (ranks.positions(rank.shape, columns) + columns - rank[..., None]) % columns
    p, q = (jnp.take_along_axis(x, index[..., None, :], axis=-1) for x in (p, q))
    s = jnp.where(inside, jnp.take_along_axis(s, index, axis=-1), 0)
    return _columns(inside, p), s, _columns(inside, q)


def _renewed(u):
    """One step of Newton and Schulz towards orthonormal columns; those that are zero stay so.

    Without it, rounding accumulates: in float32, max |U'U - I| was 2e-5 after 400 changes.
    """
    return 1.5 * u - 0.5 * matmul(u, matmul(u.mT, u))


def turn(method, change, bases, cores, grads=None):
    """Bases turn to the singular vectors of the current W, and ranks fall by the rule of `method`.

    Args:
      method: an `OIALR`.
      change: number of this change, 1 that of the conversion.
      bases: {name: Basis}.
      cores: {name: core [*batch, R, R]}.
      grads: {name: (dL/dU, dL/dV)}, for `method.grow`.

    Returns:
      bases, cores, and {name: [*batch] bool} that tells whose SVD was finite; elsewhere the old
      ones stay.
    """
    names = list(bases)
    rows = [(cores[name], bases[name].rank) for name in names]
    turned = in_batches(_svd_inside, rows, [bases[name].rank.shape for name in names])
    turned = dict(zip(names, turned, strict=True))
    spectra = {
        name: ranks.Spectrum(turned[name][1], bases[name].rank, bases[name].matrix_shape)
        for name in names
    }
    new_bases, new_cores, healthy = {}, {}, {}
    opened = _opened(method, change, names)
    for name, rank in _new_ranks(method, spectra, opened).items():
        old, (p, s, q) = bases[name], turned[name]
        finite = [jnp.all(jnp.isfinite(x), axis=(-2, -1)) for x in (p, s[..., None, :], q)]
        healthy[name] = finite[0] & finite[1] & finite[2]
        use = healthy[name] & opened[name]
        keep = ranks.inside(rank, old.columns)
        u, v = (_renewed(_columns(keep, matmul(x, y))) for x, y in ((old.u, p), (old.v, q)))
        if method.grow:
            u, v, rank = _grown(method.grow, u, v, rank, *grads[name])
        core = jnp.where(keep, s, 0)[..., None, :] * eye_like(p)
        u, v, core = (
            jnp.where(use[..., None, None], new, before)
            for new, before in ((u, old.u), (v, old.v), (core, cores[name]))
        )
        rank = jnp.where(use, rank, old.rank)
        new_bases[name] = dataclasses.replace(old, u=u, v=v, rank=rank)
        new_cores[name] = core
    return new_bases, new_cores, healthy


def _grown(count, u, v, rank, du, dv):
    """U, V with up to `count` more columns: the leading left singular vectors of the parts of dL/dU
    and dL/dV outside the spans, as far as there are such parts and room."""

    def outside(basis, grad):
        for _ in range(2):  # Twice is enough (Parlett): the first leaves rounding inside the span.
            grad = grad - matmul(basis, matmul(basis.mT, grad))
        directions, size, _ = _svd(grad)
        left_over = basis.shape[-2] - rank
        fresh = jnp.minimum(jnp.sum(size > 1e-5 * size[..., :1], axis=-1), left_over)
        return directions, jnp.where(jnp.isfinite(size[..., 0]) & (size[..., 0] > 0), fresh, 0)

    (more_u, fresh_u), (more_v, fresh_v) = outside(u, du), outside(v, dv)
    room = u.shape[-1] - rank
    added = jnp.minimum(jnp.minimum(fresh_u, fresh_v), jnp.minimum(room, count))
    columns = ranks.positions(rank.shape, u.shape[-1])
    is_new = ranks.inside(rank + added, u.shape[-1]) & ~ranks.inside(rank, u.shape[-1])

    def with_more(basis, more):
        index = jnp.clip(columns - rank[..., None], 0, more.shape[-1] - 1)
        return _columns(is_new, jnp.take_along_axis(more, index[..., None, :], axis=-1), basis)

    return with_more(u, more_u), with_more(v, more_v), (rank + added).astype(jnp.int32)


# Moments of an optimizer. Second moments move as those of independent entries, and stay positive.


def _between(left, m, right, squared):
    if squared:
        left, right = left**2, right**2
    return matmul(matmul(left, m), right)


def moment_of_core(m, squared, basis, viewed=False):
    """A moment of W, in the shape of the parameter or, if `viewed`, as matrices [*batch, n, p], as
    one of the core."""
    if isinstance(basis, optax.MaskedNode) or m.ndim == 0:
        return m
    # Not to be told by its shape: square kernels may have transposed axes.
    m = m if viewed else basis.axes.view(m)
    m = m.astype(jnp.promote_types(m.dtype, basis.u.dtype))
    return _between(basis.u.mT, m, basis.v, squared)


def turned_moment(m, squared, old, new):
    """A moment of the core between the bases `old` as one between the bases `new`."""
    if isinstance(old, optax.MaskedNode) or m.ndim == 0:
        return m
    left, right = matmul(new.u.mT, old.u), matmul(old.v.mT, new.v)
    return _between(left, m, right, squared).astype(m.dtype)
