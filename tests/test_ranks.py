from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matrices_of import gaussian

from orthojax import ranks

SPECTRA = {
    "falling": [4.0, 2.0, 1.0, 0.5, 0.1],
    "ties": [2.0, 2.0, 1.0, 1.0, 1.0],
    "all equal": [3.0] * 5,
    "rank one": [7.0, 0.0, 0.0, 0.0, 0.0],
    "tiny": [1e-12, 1e-13, 0.0, 0.0, 0.0],
    "zero": [0.0] * 5,
}
ROWS = np.array(list(SPECTRA.values()))


def spectrum(s, rank=None, shape=None):
    s = np.asarray(s, np.float64)
    rank = np.full(s.shape[:-1], s.shape[-1] if rank is None else rank, np.int32)
    return ranks.Spectrum(jnp.asarray(s), jnp.asarray(rank), shape or (9, s.shape[-1]))


def ranks_of(rule, *spectra):
    shapes = [x.shape for x in spectra]
    jitted = jax.jit(
        lambda arrays: rule(
            [ranks.Spectrum(*a, shape) for a, shape in zip(arrays, shapes, strict=True)]
        )
    )
    return [np.asarray(r) for r in jitted([x[:2] for x in spectra])]


def fewest_with(kept, s):
    total = np.sum(s**2)
    return next(k for k in range(len(s) + 1) if np.sum(s[:k] ** 2) >= kept * total * (1 - 1e-12))


# Rule: (the rule, spectrum -> rank by NumPy).
RULES = {
    "relative": (ranks.relative(0.25), lambda s: np.sum(s >= 0.25 * s[0])),
    "relative, none": (ranks.relative(0.0), len),
    "energy": (ranks.energy(0.8), lambda s: fewest_with(0.8, s)),
    "energy of a tie": (ranks.energy(0.4), lambda s: fewest_with(0.4, s)),
    "stable": (ranks.stable_rank(), lambda s: np.ceil(np.sum(s**2) / (s[0] ** 2 or 1))),
    "twice stable": (
        ranks.stable_rank(2.0),
        lambda s: min(5, np.ceil(2 * np.sum(s**2) / (s[0] ** 2 or 1))),
    ),
    "fixed": (ranks.fixed(0.5), lambda s: 2),
    "fixed, little": (ranks.fixed(0.01), lambda s: 1),
}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_gives_each_matrix_of_a_batch_the_rank_that_numpy_gives_it(x64, name):
    rule, oracle = RULES[name]
    (got,) = ranks_of(rule, spectrum(ROWS))
    assert got.dtype == np.int32
    expected = [int(oracle(s)) for s in ROWS]
    assert dict(zip(SPECTRA, got.tolist(), strict=True)) == dict(
        zip(SPECTRA, expected, strict=True)
    )


@pytest.mark.parametrize("name", RULES)
def test_a_rule_gives_no_more_than_the_rank_of_now(x64, name):
    # Of the five columns only two are in use, and the rest are zeros.
    s = np.where(np.arange(5) < 2, ROWS, 0)
    (got,) = ranks_of(RULES[name][0], spectrum(s, rank=2))
    assert got.max() <= 2


def test_a_single_column_keeps_its_rank(x64):
    for rule, _ in RULES.values():
        assert ranks_of(rule, spectrum([0.3]))[0] == 1


def stored_by(threshold, rows):
    """Numbers stored, and ranks, if s^2 >= threshold sum s^2 are kept."""
    kept = [
        np.maximum(1, np.sum(s**2 >= threshold * np.sum(s**2, -1, keepdims=True), -1))
        for s, _ in rows
    ]
    sizes = [np.sum(r * (sum(shape) + r)) for r, (_, shape) in zip(kept, rows, strict=True)]
    return sum(sizes), kept


@pytest.mark.parametrize("stored", [0.01, 0.2, 0.45, 0.7, 1.1, 5.0])
def test_a_budget_is_met_and_no_lower_common_threshold_meets_it(x64, stored):
    falling = lambda seed, shape: -np.sort(-np.abs(gaussian(seed, shape)), axis=-1)
    rows = [
        (falling(0, (2, 5)), (8, 5)),
        (100 * falling(1, 6), (6, 6)),  # The scale of a layer does not matter.
        (np.full(3, 2.0), (7, 3)),  # Tied: all or one.
    ]
    dense = sum(np.prod(s.shape[:-1], dtype=int) * n * p for s, (n, p) in rows)
    parts = np.concatenate([(s**2 / np.sum(s**2, -1, keepdims=True)).ravel() for s, _ in rows])
    thresholds = [t * (1 - 1e-9) for t in np.sort(parts)] + [2.0]
    fitting = [t for t in thresholds if stored_by(t, rows)[0] <= stored * dense]
    expected = stored_by(min(fitting, default=2.0), rows)[1]
    got = ranks_of(ranks.budget(stored), *[spectrum(s, shape=shape) for s, shape in rows])
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_budget_does_not_lower_the_rank_of_zero_kernels_while_all_fit(x64):
    (got,) = ranks_of(ranks.budget(2.0), spectrum(np.zeros((2, 4)), shape=(9, 4)))
    np.testing.assert_array_equal(got, [4, 4])


def limit(new, old, columns, max_drop, floor):
    """`ranks.limited` in exact fractions."""
    drop, floor = Fraction(str(max_drop)), Fraction(str(floor))
    least = max(1, int(floor * columns), int((1 - drop) * old))
    return min(max(new, least), old)


@pytest.mark.parametrize("max_drop", [0.1, 0.2, 0.5, 0.8, 0.9, 1.0])
@pytest.mark.parametrize("floor", [0.0, 0.01, 0.3])
def test_limits_are_those_of_exact_arithmetic_and_ranks_never_rise(x64, max_drop, floor):
    cases = [(new, old) for old in range(1, 21) for new in range(old + 3)]
    new, old = (jnp.asarray(x, jnp.int32) for x in zip(*cases, strict=True))
    got = jax.jit(lambda a, b: ranks.limited(a, b, 20, max_drop, floor))(new, old)
    assert got.tolist() == [limit(a, b, 20, max_drop, floor) for a, b in cases]
    assert np.all(got <= old)
    assert np.all(got >= 1)


@pytest.mark.parametrize("name", RULES)
def test_a_zero_kernel_keeps_a_rank_above_zero(x64, name):
    (got,) = ranks_of(RULES[name][0], spectrum(np.zeros(5)))
    assert int(ranks.limited(got, jnp.int32(5), 5, 1.0, 0.0)) >= 1


BAD = [
    (ranks.relative, "cutoff", [-0.1, 1.0, 2]),
    (ranks.energy, "kept", [0.0, -1, 1.1]),
    (ranks.fixed, "part", [0.0, 1.5]),
    (ranks.stable_rank, "scale", [0.0, -1.0]),
    (ranks.budget, "stored", [0, -0.5]),
]


@pytest.mark.parametrize(
    ("rule", "argument", "value"),
    [(rule, argument, v) for rule, argument, values in BAD for v in values],
)
def test_a_bad_argument_is_an_error_that_names_and_shows_it(rule, argument, value):
    with pytest.raises(ValueError, match=rf"`{argument}`.*got {value}"):
        rule(value)
