"""Adapters: what they are by explicit products, the laws of a start and of merging, errors; and the
study of them, in small."""

import csv
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from matrices_of import defect, gaussian

import orthojax
from experiments import configuration, studies
from experiments.configs import adapters as preset
from experiments.configuration import ConfigurationError
from orthojax.adapters import ADAPTERS, boft, hra, init, lora, lora_xs, merge, oft
from orthojax.diagnostics import hyperspherical_energy
from orthojax.matrices import MatrixAxes

KEY = jax.random.key(0)
# (Adapter, numbers that it trains of a kernel of d inputs, n outputs)
CASES = {
    "oft": (oft(4), lambda d, n: d * 3 // 2),
    "oft_odd": (oft(3), lambda d, n: d),
    "boft": (boft(4, 2), lambda d, n: 2 * d * 3 // 2),
    "givens": (boft(2, 3), lambda d, n: 3 * d // 2),
    "hra": (hra(4), lambda d, n: 4 * d),
    "lora": (lora(2), lambda d, n: 2 * (d + n)),
    "lora_xs": (lora_xs(3), lambda d, n: 9),
}
ROTATIONS = ("oft_odd", "boft", "hra")
TALL, WIDE = (24, 5), (24, 40)


def moved(theta, size=0.3):
    """`theta` and something random."""
    leaves, structure = jax.tree.flatten(theta)
    return structure.unflatten(
        [x + size * jnp.asarray(gaussian(i, x.shape), x.dtype) for i, x in enumerate(leaves)]
    )


def adapted(adapter, w, seed=0):
    """(W, theta) of an adapter that has been trained."""
    constants, theta = adapter.init(jax.random.key(seed), w)
    theta = moved(theta)
    return jax.jit(adapter.forward)(w, constants, theta), theta


energy = jax.jit(hyperspherical_energy)


# Oracles: explicit d x d matrices, by NumPy.


def cayley_by_solve(entries, b):
    a = np.zeros((b, b))
    a[np.triu_indices(b, 1)] = entries
    a -= a.T
    return np.linalg.solve(np.eye(b) - a / 2, np.eye(b) + a / 2)


def butterfly(theta, b, d):
    """B_m ... B_1, each rotation put at the rows that it turns, one after another."""
    product = np.eye(d)
    for i, blocks in enumerate(theta):
        factor, run, stride = np.zeros((d, d)), b // 2, 2**i
        pairs = [(j, j + stride) for j in range(d // max(run, 1)) if not j & stride]
        if i == 0:
            rows = np.arange(d).reshape(-1, b)
        else:
            rows = np.array([[*range(j * run, j * run + run), *range(k * run, k * run + run)]
                             for j, k in pairs])  # fmt: skip
        for own, entries in zip(rows, blocks, strict=True):
            factor[np.ix_(own, own)] = cayley_by_solve(entries, b)
        product = factor @ product
    return product


def reflections(v):
    one = lambda v: np.eye(len(v)) - 2 * np.outer(v, v) / (v @ v)
    return functools.reduce(np.matmul, [one(column) for column in v.T])


@pytest.mark.parametrize(
    ("name", "block"), [("oft", 4), ("oft_odd", 3), ("boft", 4), ("givens", 2)]
)
def test_a_butterfly_is_its_blocks_put_into_matrices(x64, name, block):
    w = gaussian(1, TALL)
    actual, theta = adapted(CASES[name][0], jnp.asarray(w))
    expected = butterfly(np.asarray(theta), block, 24) @ w
    np.testing.assert_allclose(actual, expected, atol=1e-13)


def test_a_full_butterfly_mixes_all_inputs_and_fewer_factors_their_blocks(x64):
    for block, factors, reach in ((4, None, 16), (4, 2, 8)):
        r, _ = adapted(boft(block, factors), jnp.eye(16))
        same = np.arange(16)[:, None] // reach == np.arange(16) // reach
        np.testing.assert_array_equal(np.abs(r) > 1e-12, same)


def test_hra_is_the_product_of_its_reflections(x64):
    w = gaussian(1, WIDE)
    actual, theta = adapted(hra(4), jnp.asarray(w))
    np.testing.assert_allclose(actual, reflections(np.asarray(theta)) @ w, atol=1e-13)


def test_lora_adds_a_product(x64):
    w = gaussian(1, WIDE)
    actual, theta = adapted(lora(2, scale=3.0), jnp.asarray(w))
    np.testing.assert_allclose(actual, w + 3 * np.asarray(theta["a"] @ theta["b"]), atol=1e-13)


def test_lora_xs_is_a_core_between_the_leading_singular_vectors(x64):
    for shape in (TALL, WIDE):
        w = gaussian(1, shape)
        actual, core = adapted(lora_xs(3), jnp.asarray(w))
        u, s, vt = np.linalg.svd(w, full_matrices=False)
        inside = u[:, :3].T @ np.asarray(actual) @ vt[:3].T
        # Singular vectors come with signs of their own, the same on both sides.
        np.testing.assert_allclose(
            np.abs(inside - np.diag(s[:3])), np.abs(s[:3, None] * core), atol=1e-12
        )
        change = np.asarray(actual) - w
        np.testing.assert_allclose(u[:, :3] @ u[:, :3].T @ change @ vt[:3].T @ vt[:3], change,
                                   atol=1e-12)  # fmt: skip


# Laws.


@pytest.mark.parametrize("name", CASES)
def test_starts_at_the_frozen_kernel_with_as_many_numbers_as_its_formula(x64, name):
    adapter, count = CASES[name]
    w = jnp.asarray(gaussian(1, WIDE))
    constants, theta = adapter.init(KEY, w)
    assert sum(x.size for x in jax.tree.leaves(theta)) == count(*WIDE)

    @jax.jit
    def pulled_back(w, constants, theta):
        new, vjp = jax.vjp(lambda theta: adapter.forward(w, constants, theta), theta)
        return new, *vjp(new**2)

    new, grads = pulled_back(w, constants, theta)
    np.testing.assert_allclose(new, w, atol=1e-14)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    assert any(np.abs(g).max() > 1e-3 for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("name", ROTATIONS)
def test_rotations_keep_lengths_angles_and_hyperspherical_energy(name):
    w = jnp.asarray(gaussian(1, WIDE), jnp.float32)
    new = np.asarray(adapted(CASES[name][0], w)[0], np.float64)
    # W has all rows: R is orthogonal if and only if all inner products stay.
    np.testing.assert_allclose(new.T @ new, np.asarray(w).T @ np.asarray(w), atol=2e-5)
    np.testing.assert_allclose(energy(jnp.asarray(new, jnp.float32)), energy(w), rtol=1e-6)
    assert np.abs(new - w).max() > 0.1


def test_the_cayley_transform_is_exact_where_a_truncated_series_is_not():
    # peft's five terms, sum of A^k for k < 5 in place of (I - A)^{-1}, at |A| = 1.
    a = gaussian(0, (32, 32))
    a = (a - a.T) / np.linalg.norm(a - a.T, 2)
    series = sum(np.linalg.matrix_power(a, k) for k in range(5)) @ (np.eye(32) + a)
    assert defect(series) > 0.1
    adapter = oft(32)
    _, theta = adapter.init(KEY, jnp.eye(32))
    theta = jnp.asarray(2 * a[np.triu_indices(32, 1)], jnp.float32).reshape(theta.shape)
    assert defect(adapter.forward(jnp.eye(32), (), theta)) < 2e-6


@pytest.mark.parametrize("name", ["oft_odd", "hra", "lora_xs"])
def test_a_stack_is_its_matrices_one_by_one(x64, name):
    adapter, _ = CASES[name]
    w = jnp.asarray(gaussian(1, (2, *TALL)))
    constants, theta = adapter.init(KEY, w)
    theta = moved(theta)
    forward = jax.jit(adapter.forward)
    stacked = forward(w, constants, theta)
    for i in range(2):
        one = forward(*jax.tree.map(lambda x, i=i: x[i], (w, constants, theta)))
        np.testing.assert_allclose(stacked[i], one, atol=1e-13)


def test_energy_is_the_sum_over_all_pairs(x64):
    w = gaussian(1, (3, 6))
    unit = (w / np.linalg.norm(w, axis=0)).T
    pairs = [(a, b) for i, a in enumerate(unit) for j, b in enumerate(unit) if i != j]
    expected = sum(1 / np.linalg.norm(a - b) for a, b in pairs)
    np.testing.assert_allclose(hyperspherical_energy(jnp.asarray(w)), expected, rtol=1e-13)
    wide = jnp.asarray(w).reshape(3, 2, 3)  # Query of 2 heads.
    np.testing.assert_allclose(
        hyperspherical_energy(wide, MatrixAxes(0, (1, 2))), expected, rtol=1e-13
    )
    assert np.isinf(energy(jnp.ones((2, 2))))
    assert np.isfinite(energy(jnp.asarray([[0.0, 1e30], [0.0, 0.0]])))


# Models.


class Model(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(4, 8, (2, 2), rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 8, 8, decode=False, rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        x = self.conv(x).reshape(x.shape[0], -1, 8)
        return self.head(self.attention(x).mean(axis=1))


MODEL_RULES = (
    ("head/.*", "free"),
    (".*bias", "frozen"),
    ("attention/out/kernel", (oft(2), MatrixAxes((0, 1), 2))),
    ("attention/key/kernel", (lora_xs(2), MatrixAxes(0, 2))),  # A matrix a head.
    ("attention/.*", hra(2)),
    (".*kernel", boft(4, 3)),
)


def test_a_model_trains_through_merge_and_is_merged_exactly():
    graph, params = nnx.split(Model(nnx.Rngs(0)), nnx.Param)
    x = jnp.asarray(gaussian(0, (5, 4, 4, 4)), jnp.float32)
    model = jax.jit(lambda params: nnx.merge(graph, params)(x))
    frozen, theta = init(KEY, params, MODEL_RULES)
    shapes = {name: jax.tree.map(jnp.shape, own) for name, own in theta.items()}
    assert shapes == {
        "attention/key/kernel": (2, 2, 2),
        "attention/out/kernel": (1, 4, 1),
        "attention/query/kernel": (8, 2),
        "attention/value/kernel": (8, 2),
        "conv/kernel": (3, 4, 6),
        "head/bias": (3,),
        "head/kernel": (8, 3),
    }
    merged = jax.jit(merge)
    np.testing.assert_allclose(model(merged(frozen, theta)), model(params), atol=1e-5)

    tx = optax.adam(1e-2)
    loss = lambda theta, frozen: jnp.mean((model(merge(frozen, theta)) - 1) ** 2)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(theta, state, frozen):
        value, grads = jax.value_and_grad(loss)(theta, frozen)
        updates, state = tx.update(grads, state, theta)
        return optax.apply_updates(theta, updates), state, value

    before, state, values = jax.tree.map(np.asarray, params), tx.init(theta), []
    for _ in range(8):
        theta, state, value = step(theta, state, frozen)
        values.append(float(value))
    assert values[-1] < values[0]
    assert step._cache_size() == 1
    assert sum(x.size for x in jax.tree.leaves(state)) == 2 * sum(
        x.size for x in jax.tree.leaves(theta)
    ) + 1  # fmt: skip
    jax.tree.map(np.testing.assert_array_equal, frozen.params, before)
    deployed = merged(frozen, theta)
    assert jax.tree.structure(deployed) == jax.tree.structure(params)
    expected = jnp.mean((model(deployed) - 1) ** 2)
    np.testing.assert_allclose(jax.jit(loss)(theta, frozen), expected, rtol=1e-5)
    np.testing.assert_array_equal(deployed["conv"]["bias"][...], params["conv"]["bias"][...])


def test_bfloat16_kernels_are_adapted_in_float32_and_many_theta_share_one_model():
    params = {"kernel": jnp.asarray(gaussian(0, (8, 6)), jnp.bfloat16)}
    frozen, theta = init(KEY, params, [(".*", oft(4))])
    assert theta["kernel"].dtype == jnp.float32
    same = jax.jit(merge)(frozen, theta)["kernel"]
    assert same.dtype == jnp.bfloat16
    np.testing.assert_array_equal(same, params["kernel"])
    both = jax.tree.map(lambda x, y: jnp.stack([x, y]), theta, moved(theta))
    two = jax.jit(jax.vmap(merge, in_axes=(None, 0)))(frozen, both)["kernel"]
    assert two.shape == (2, 8, 6)
    assert (two[0] != two[1]).any()
    assert oft(4) is oft(4)


def test_wrong_sizes_rules_and_theta_are_told():
    params = {"a": {"kernel": jnp.ones((12, 4)), "bias": jnp.ones(4)}}
    for adapter, message in (
        (oft(5), r"'a/kernel' of shape \(12, 4\): `block` divides the 12 inputs, got 5.*is 4"),
        (oft(24), "the nearest that does is 12"),
        (boft(3, 2), r"2 `factors` .* 1 at most"),
        (boft(4, 2), r"2 `factors` .* 1 at most"),
        (boft(2, 3), r"3 `factors` .* 2 at most"),
        (boft(4), r"`factors` .* 1 at most"),
        (hra(14), "`reflections` is at most the 12 inputs, got 14"),
        (lora(5), "`rank` is at most 4 for 12 x 4"),
        (lora_xs(5), "`rank` is at most 4"),
        (4, '"free", "frozen", an adapter'),
        (("oft", 4), '"free", "frozen", an adapter'),
    ):
        with pytest.raises(ValueError, match=message):
            init(KEY, params, [(".*kernel", adapter), (".*", "frozen")])
    for make, message in (
        (lambda: hra(3), "determinant -1"),
        (lambda: hra(0), "at least 1"),
        (lambda: oft(1), "at least 2"),
        (lambda: lora(0), "`rank` is a whole number"),
        (lambda: boft(4, 0), "`factors` is a whole number"),
        (lambda: init(KEY, params, [(".*", oft(4))]), "'a/bias' of shape .* is no matrix"),
        (lambda: init(KEY, params, [(".*kernel", oft(4))]), "No rule matches"),
        (lambda: init(KEY, params, [(".*", "frozen")]), "nothing is left to train"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    frozen, theta = init(KEY, params, [(".*kernel", oft(4)), (".*", "free")])
    del theta["a/bias"]
    with pytest.raises(ValueError, match="`theta` is of parameters"):
        merge(frozen, theta)


# The study.


def small(**study):
    c = preset.get_config()
    c.seeds = (0,)
    c.data.update({"name": "mnist_5k", "augment": "none"})
    c.model = {"name": "mlp", "width": 16, "depth": 1, "activation": "relu",
               "kernel_init": "he_normal"}  # fmt: skip
    sizes = {"batch_size": 20, "pretraining_steps": 60, "examples": 200, "steps": 30}
    c.study.update(sizes | {"kernels": "(embed|hidden_0)/kernel", "lrs": (1e-2,)} | study)
    arms = {"none": 1, "oft": 4}
    c.arms = {name: {"study": {"adapter": name, "size": size}} for name, size in arms.items()}
    return c


@pytest.mark.slow
def test_the_study_adapts_to_the_other_half(tmp_path):
    studies.run(small(), tmp_path)
    with (tmp_path / "results.csv").open() as file:
        rows = {row["arm"]: row for row in csv.DictReader(file)}
    head = 16 * 5 + 5
    trained = {name: int(row["trained"]) for name, row in rows.items()}
    assert trained == {
        "none": head,
        "oft": head + (784 + 16) * 3 // 2,
    }
    assert len({row["pretrained_accuracy"] for row in rows.values()}) == 1
    assert min(float(row["test_accuracy"]) for row in rows.values()) > 0.25  # Of five classes.
    assert float(rows["oft"]["energy_change"]) < 1e-5
    assert (tmp_path / "adapters.png").exists()


def test_the_study_refuses_what_cannot_be():
    for name, arm in configuration.arms(preset.get_config(), studies.check).items():
        assert set(dict(arm.study)["lrs"]), name
    for study, message in (
        ({"adapter": "dora"}, "unknown name 'dora'"),
        ({"factors": 2, "adapter": "oft"}, "needs study.adapter=boft"),
        ({"lrs": ()}, "positive floats"),
        ({"head": "("}, "no regular expression"),
        ({"steps": 0}, "study.steps must be positive"),
    ):
        config = small(**study)
        config.arms = {}
        with pytest.raises(ConfigurationError, match=message):
            studies.check(config)
    arm = configuration.arms(small(examples=1500, pretraining_steps=1), studies.check)["none"]
    measure = studies.STUDIES["adapters"].make_measure(arm)
    with pytest.raises(ConfigurationError, match=r"study\.examples"):
        measure(0)


def test_names():
    assert set(ADAPTERS) == {"oft", "boft", "hra", "lora", "lora_xs"}
    assert orthojax.adapters.merge is merge
