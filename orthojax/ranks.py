"""How many singular values stay: rules from spectra to ranks.

A rule takes all spectra of a model at once, and so may share a budget among them; all are jit-safe.
`orthojax.OIALR(rank=...)` applies one, and its limits (`max_drop`, `floor`) after it.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Spectrum(NamedTuple):
    """The singular values of the kernels of one parameter."""

    s: jax.Array  # [*batch, R], falling, 0 from `rank` on
    rank: jax.Array  # [*batch] int32, of now; the rule's answer is at most this
    shape: tuple[int, int]  # (n, p) of W, n >= p


Rule = Callable[[Sequence[Spectrum]], list[jax.Array]]


def positions(batch: tuple[int, ...], columns: int) -> jax.Array:
    """0, 1, ..., columns - 1 for each matrix of a batch: [*batch, columns] int32."""
    return jax.lax.broadcasted_iota(jnp.int32, (*batch, columns), len(batch))


def inside(rank: jax.Array, columns: int) -> jax.Array:
    """Which columns are the first `rank` [*batch]: [*batch, columns] bool."""
    return positions(rank.shape, columns) < rank[..., None]


def _count(keep, x):
    return jnp.sum(keep & inside(x.rank, x.s.shape[-1]), axis=-1, dtype=jnp.int32)


def _one_by_one(rank):
    return lambda spectra: [rank(spectrum) for spectrum in spectra]


def relative(cutoff: float) -> Rule:
    """Keeps singular values of at least `cutoff` times the largest, the rule of OIALR (Coquelin et
    al. 2024, arXiv:2401.08505). `cutoff` in [0, 1).

    >>> import jax.numpy as jnp
    >>> spectrum = Spectrum(jnp.array([4.0, 2.0, 0.1, 0.0]), jnp.array(3), (8, 4))
    >>> int(relative(0.1)([spectrum])[0])
    2
    """
    if isinstance(cutoff, int | float) and not 0 <= cutoff < 1:
        raise ValueError(
            f"`cutoff` is relative to the largest singular value and lies in [0, 1), got {cutoff}."
        )
    # Not `>`: a zero kernel would get rank 0 and never learn.
    return _one_by_one(lambda x: _count(x.s >= cutoff * x.s[..., :1], x))


def energy(kept: float) -> Rule:
    """Keeps the fewest singular values that hold the part `kept` of sum s^2. `kept` in (0, 1].

    Of what is left at the time: every change drops 1 - `kept` again, so stay near 1 where there
    are many.
    """
    if isinstance(kept, int | float) and not 0 < kept <= 1:
        raise ValueError(f"`kept` is a part of the sum of squares and lies in (0, 1], got {kept}.")

    def rank(x):
        squares = x.s**2
        before = jnp.cumsum(squares, axis=-1) - squares  # held by those that are larger
        return _count(before < kept * jnp.sum(squares, axis=-1, keepdims=True), x)

    return _one_by_one(rank)


def fixed(part: float) -> Rule:
    """Keeps the same part of the columns of every kernel, at least one. `part` in (0, 1]."""
    if isinstance(part, int | float) and not 0 < part <= 1:
        raise ValueError(f"`part` of the columns lies in (0, 1], got {part}.")

    def rank(x):
        return _count(positions(x.rank.shape, x.s.shape[-1]) < max(1, int(part * x.shape[1])), x)

    return _one_by_one(rank)


def stable_rank(scale: float = 1.0) -> Rule:
    """Keeps `scale` times the stable rank, sum s^2 / max s^2, rounded up: the rank rule of
    Cuttlefish (Wang et al. 2023, arXiv:2305.02538) without its correction by the rank at start.

    Of what is left at the time, which is less than that rank unless all singular values are equal:
    with `scale` 1 every change lowers the rank again.
    """
    if isinstance(scale, int | float) and not scale > 0:
        raise ValueError(f"`scale` is positive, got {scale}.")

    def rank(x):
        largest = jnp.where(x.s[..., :1] > 0, x.s[..., :1], 1)
        stable = jnp.sum((x.s / largest) ** 2, axis=-1, keepdims=True)
        return _count(positions(x.rank.shape, x.s.shape[-1]) < jnp.ceil(scale * stable), x)

    return _one_by_one(rank)


def budget(stored: float) -> Rule:
    """One threshold t for all kernels: keeps s^2 >= t sum s^2, t as small as it may be for all
    kernels together to take `stored` times the numbers they take dense, r (n + p) + r^2 for rank r.

    Relative to the energy of the kernel, so that the scale of a layer does not matter. `stored` is
    positive; where even rank 1 takes more, the rank is 1.
    """
    if isinstance(stored, int | float) and not stored > 0:
        raise ValueError(f"`stored` is a positive part of the dense size, got {stored}.")

    def rule(spectra):
        dense = sum(x.rank.size * x.shape[0] * x.shape[1] for x in spectra)

        def ranks(threshold):
            return [
                jnp.maximum(
                    1, _count(x.s**2 >= threshold * jnp.sum(x.s**2, axis=-1, keepdims=True), x)
                )
                for x in spectra
            ]

        def size(ranks):
            # As floats: a large model has more numbers than int32 counts.
            r = [rank.astype(jnp.float32) for rank in ranks]
            parts = [jnp.sum(r * (sum(x.shape) + r)) for r, x in zip(r, spectra, strict=True)]
            return sum(parts)

        def halve(_, ends):  # The threshold, in logarithms, between too small and large enough.
            low, high = ends
            middle = (low + high) / 2
            fits = size(ranks(jnp.exp(middle))) <= stored * dense
            return jnp.where(fits, low, middle), jnp.where(fits, middle, high)

        all_fit = size(ranks(0.0)) <= stored * dense
        _, threshold = jax.lax.fori_loop(0, 40, halve, (jnp.log(1e-20), jnp.log(2.0)))
        return [
            jnp.where(all_fit, a, b)
            for a, b in zip(ranks(0.0), ranks(jnp.exp(threshold)), strict=True)
        ]

    return rule


def limited(
    new: jax.Array, old: jax.Array, columns: int, max_drop: float, floor: float
) -> jax.Array:
    """`new` ranks between 1 and `old`, not below `floor` times the columns, and with at most the
    part `max_drop` of `old` dropped at once."""
    least = jnp.maximum(1, int(floor * columns + 1e-3))
    # As the authors' int(old / 2) rounds, but not by the rounding of the product.
    least = jnp.maximum(least, jnp.floor((1 - max_drop) * old + 1e-3).astype(jnp.int32))
    return jnp.minimum(jnp.maximum(new, least), old)
