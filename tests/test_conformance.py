"""Every public transformation against everything Optax and JAX let a user do with one."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from matrices_of import gaussian, orthonormal

import orthojax
from orthojax.transforms.landing import landing, pogo
from orthojax.transforms.vector_adam import scale_by_vector_adam

MATRICES = {"a": (6, 4), "none": None, "nested": ({"wide": (4, 6)},)}
MODEL = {
    "conv": {"kernel": (2, 2, 3, 4), "bias": (4,)},
    "dense": {"kernel": (6, 4), "none": None, "scale": ()},
}


def _links(lr=0.1):
    return optax.chain(
        orthojax.riemannian_gradient("canonical"),
        optax.scale_by_adam(),
        optax.scale_by_learning_rate(lr),
        orthojax.retract("cayley"),
    )


def _pogo(lr=0.1):
    steps = scale_by_vector_adam(), optax.scale_by_learning_rate(lr), pogo()
    return optax.chain(*steps)


def _landing(lr=0.1):
    return optax.chain(optax.trace(0.9), optax.scale_by_learning_rate(lr), landing())


def _reparameterize(lr=0.1, *, name, rebase_every=None):
    return orthojax.reparameterize(optax.adam(lr), name, rebase_every)


def _householder(lr=0.1):
    # Adam takes steps of full size along gradients that are zero but for rounding, as they are
    # along the normals of reflections: no test of precision.
    return orthojax.reparameterize(optax.sgd(lr), "householder")


def _low_rank(lr=0.1):
    # The singular vectors of orthonormal weights are arbitrary, and SGD does not depend on them.
    return orthojax.reparameterize(optax.sgd(lr, 0.9), orthojax.low_rank(), rebase_every=2)


def _oialr(lr=0.1):
    return orthojax.oialr(optax.sgd(lr, 0.9), delay=1, every=2)


def _penalty(lr=0.1):
    return optax.chain(orthojax.add_spectral_norm(0.1), optax.sgd(lr))


def _muon(lr=0.1):
    # Few steps: it is compiled op by op, too.
    links = optax.trace(0.9), orthojax.orthogonalize(steps=2), optax.scale_by_learning_rate(lr)
    return optax.chain(*links, orthojax.spectral_cap(1.1, steps=2))


def _manifold_muon(lr=0.1):
    return orthojax.manifold_muon(lr, steps=2)


# Name: (learning rate -> transformation, shapes of params). A new transformation adds a row.
TRANSFORMATIONS = {
    "cayley": (functools.partial(_reparameterize, name="cayley"), MATRICES),
    "exponential": (
        functools.partial(_reparameterize, name="exponential", rebase_every=2),
        MATRICES,
    ),
    "householder": (_householder, MATRICES),
    "polar": (functools.partial(_reparameterize, name="polar", rebase_every=1), MATRICES),
    "qr": (functools.partial(_reparameterize, name="qr"), MATRICES),
    "low_rank": (_low_rank, MATRICES),
    "riemannian_gradient": (lambda lr=0.1: orthojax.riemannian_gradient(), MATRICES),
    "links": (_links, MATRICES),
    "pogo": (_pogo, MATRICES),
    "landing": (_landing, MATRICES),
    "penalty": (_penalty, MATRICES),
    "muon": (_muon, MATRICES),
    "manifold_muon": (_manifold_muon, MATRICES),
    "retract_qr": (lambda lr=0.1: orthojax.retract("qr"), MATRICES),
    "oialr": (_oialr, MODEL),
    "orthogonal": (lambda lr=0.1: orthojax.orthogonal(optax.adam(lr)), MODEL),
}


def tree_of(shapes, make):
    is_shape = lambda x: isinstance(x, tuple) and all(isinstance(n, int) for n in x)
    leaves, structure = jax.tree.flatten(shapes, is_leaf=is_shape)
    return structure.unflatten([jnp.asarray(make(i, s)) for i, s in enumerate(leaves)])


def weights(i, shape):
    if len(shape) < 2:
        return gaussian(i, shape, np.float32)
    n, p = int(np.prod(shape[:-1])), shape[-1]
    w = orthonormal(i, (max(n, p), min(n, p)), np.float32)
    return (w if n >= p else w.T).reshape(shape)


class Case:
    def __init__(self, name):
        self.factory, self.shapes = TRANSFORMATIONS[name]
        self.tx = self.factory()
        self.params = tree_of(self.shapes, weights)
        self.grads = tree_of(self.shapes, lambda i, s: gaussian(i + 9, s, np.float32))
        self.state = jax.jit(self.tx.init)(self.params)


# The same engine or links as in other rows; by -m slow.
ALIKE = {
    *("exponential", "householder", "polar", "qr", "low_rank"),
    *("riemannian_gradient", "retract_qr", "landing", "links"),
    *("penalty", "muon", "manifold_muon"),
}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.slow) if name in ALIKE else name
        for name in TRANSFORMATIONS
    ],
)
def case(request):
    return Case(request.param)


@functools.partial(jax.jit, static_argnums=0)
def update(tx, grads, state, params):
    return tx.update(grads, state, params)


def assert_same(actual, expected, **tolerance):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerance), actual, expected)


def assert_alike(actual, expected):
    """Same structure, shapes and dtypes."""
    describe = lambda tree: jax.tree.map(lambda x: (jnp.shape(x), jnp.asarray(x).dtype), tree)
    assert describe(actual) == describe(expected)


def test_init_is_known_by_its_shapes(case):
    described = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    abstract = jax.eval_shape(case.tx.init, case.params)
    assert described(abstract) == described(case.state)


def test_missing_params_are_an_error(case):
    with pytest.raises(ValueError, match="needs the current weights"):
        case.tx.update(case.grads, case.state)


def test_unknown_extra_arguments_are_accepted(case):
    def program(**more):
        traced = jax.make_jaxpr(lambda *trees: case.tx.update(*trees, **more))
        return re.sub("0x[0-9a-f]+", "", str(traced(case.grads, case.state, case.params)))

    assert program(unexpected=1.0) == program()


def test_structure_shapes_and_dtypes_are_stable(case):
    updates, state = update(case.tx, case.grads, case.state, case.params)
    assert_alike(updates, case.params)
    assert_alike(state, case.state)


def test_eager_and_jitted_updates_agree(case):
    eager, _ = case.tx.update(case.grads, case.state, case.params)
    assert_same(eager, update(case.tx, case.grads, case.state, case.params)[0], atol=2e-6)


def test_bfloat16_params_get_bfloat16_updates_from_a_float32_state(case):
    half = lambda tree: jax.tree.map(lambda x: x.astype(jnp.bfloat16), tree)
    params, grads = half(case.params), half(case.grads)
    state = jax.jit(case.tx.init)(params)
    updates, new_state = update(case.tx, grads, state, params)
    assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype(jnp.bfloat16)}
    assert_alike(new_state, state)
    for name in ("base", "theta"):
        for _, tree in optax.tree.get_all_with_path(state, name):
            dtypes = {x.dtype for x in jax.tree.leaves(tree)} - {jnp.dtype(jnp.int32)}
            assert dtypes == {jnp.dtype(jnp.float32)}


def test_float64_params_get_float64_updates(case):
    with jax.enable_x64(True):
        double = lambda tree: jax.tree.map(lambda x: x.astype(jnp.float64), tree)
        params = double(case.params)
        state = jax.jit(case.tx.init)(params)
        updates, _ = update(case.tx, double(case.grads), state, params)
        assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype(jnp.float64)}
    single, _ = update(case.tx, case.grads, case.state, case.params)
    assert_same(updates, single, atol=5e-6)


def test_scan_carries_it(case):
    def step(carry, _):
        params, state = carry
        updates, state = case.tx.update(case.grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    scanned, _ = jax.jit(lambda c: jax.lax.scan(step, c, length=3))((case.params, case.state))
    params, state = case.params, case.state
    for _ in range(3):
        updates, state = update(case.tx, case.grads, state, params)
        params = optax.apply_updates(params, updates)
    assert_same(scanned, (params, state), atol=2e-5)


def test_cond_takes_it_as_a_branch(case):
    @jax.jit
    def maybe(flag):
        return jax.lax.cond(
            flag,
            lambda: case.tx.update(case.grads, case.state, case.params),
            lambda: (case.grads, case.state),
        )

    assert_same(maybe(False)[0], case.grads)
    expected = update(case.tx, case.grads, case.state, case.params)[0]
    assert_same(maybe(True)[0], expected, atol=1e-6)


def test_vmap_trains_each_model_as_if_alone(case):
    negated_too = lambda tree: jax.tree.map(lambda p: jnp.stack([p, -p]), tree)
    params, grads = negated_too(case.params), negated_too(case.grads)
    state = jax.jit(jax.vmap(case.tx.init))(params)
    together, _ = jax.jit(jax.vmap(case.tx.update))(grads, state, params)
    alone, _ = update(case.tx, case.grads, case.state, case.params)
    assert_same(jax.tree.map(lambda x: x[0], together), alone, atol=5e-6)
    assert_same(jax.tree.map(lambda x: -x[1], together), alone, atol=5e-6)


def test_masked_leaves_pass_through(case):
    mask = lambda params: jax.tree_util.tree_map_with_path(
        lambda path, _: "a" not in jax.tree_util.keystr(path, simple=True), params
    )
    tx = optax.masked(case.tx, mask)
    updates, _ = jax.jit(tx.update)(case.grads, tx.init(case.params), case.params)
    expected, _ = update(case.tx, case.grads, case.state, case.params)
    jax.tree.map(
        lambda keep, got, want, raw: np.testing.assert_allclose(
            got, want if keep else raw, atol=2e-6
        ),
        mask(case.params),
        updates,
        expected,
        case.grads,
    )


def test_partition_gives_it_its_share(case):
    label = lambda params: jax.tree.map(lambda x: "x" if jnp.ndim(x) >= 2 else "rest", params)
    tx = optax.partition({"x": case.tx, "rest": optax.sgd(0.1)}, label)
    updates, _ = jax.jit(tx.update)(case.grads, tx.init(case.params), case.params)
    expected, _ = update(case.tx, case.grads, case.state, case.params)
    jax.tree.map(
        lambda got, want: np.testing.assert_allclose(got, want, atol=2e-6) if got.ndim > 1 else 0,
        updates,
        expected,
    )


def test_inject_hyperparams_schedules_its_learning_rate(case):
    schedule = optax.linear_schedule(0.1, 0.0, 10)
    tx = optax.inject_hyperparams(case.factory)(lr=schedule)
    state = tx.init(case.params)
    updates, state = jax.jit(tx.update)(case.grads, state, case.params)
    expected, _ = update(case.tx, case.grads, case.state, case.params)
    assert_same(updates, expected, atol=2e-6)
    assert state.hyperparams["lr"] == pytest.approx(0.1)


def test_multi_steps_accumulates_before_it(case):
    tx = optax.MultiSteps(case.tx, every_k_schedule=2)
    step, state = jax.jit(tx.update), tx.init(case.params)
    first, state = step(case.grads, state, case.params)
    assert all(not np.any(x) for x in jax.tree.leaves(first))
    second, _ = step(case.grads, state, case.params)
    expected, _ = update(case.tx, case.grads, case.state, case.params)
    assert_same(second, expected, atol=1e-5)


def test_map_params_reaches_the_params_in_its_state(case):
    doubled = optax.tree.map_params(case.tx, lambda x: 2 * x, case.state)
    assert jax.tree.structure(doubled) == jax.tree.structure(case.state)
    for name in ("base", "theta"):
        for (_, before), (_, after) in zip(
            optax.tree.get_all_with_path(case.state, name),
            optax.tree.get_all_with_path(doubled, name),
            strict=True,
        ):
            assert_same(after, jax.tree.map(lambda x: 2 * x, before))


def test_one_trace_serves_the_whole_run(case):
    traces = 0

    @jax.jit
    def step(params, state):
        nonlocal traces
        traces += 1
        updates, state = case.tx.update(case.grads, state, params)
        return optax.apply_updates(params, updates), state

    carry = case.params, case.state
    for _ in range(3):
        carry = step(*carry)
    assert traces == 1


def test_params_and_state_can_both_be_donated(case):
    # The state must not alias the params, nor itself.
    copy = lambda tree: jax.tree.map(jnp.array, tree)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state):
        updates, state = case.tx.update(case.grads, state, params)
        return optax.apply_updates(params, updates), state

    params = copy(case.params)
    carry = params, case.tx.init(params)
    for _ in range(2):
        carry = step(*carry)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(carry[0]))


def sharded(tree, mesh):
    """Each leaf over the mesh along its first axis that the devices divide."""

    def place(x):
        axes = [None] * x.ndim
        for i, n in enumerate(x.shape):
            if n % mesh.size == 0:
                axes[i] = "x"
                break
        return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*axes)))

    return jax.tree.map(place, tree)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def test_sharded_params_give_the_unsharded_result_where_they_lie(case, axis_type):
    devices = jax.devices()[:2]
    mesh = jax.make_mesh((2,), ("x",), axis_types=(axis_type,), devices=devices)
    params, grads = sharded(case.params, mesh), sharded(case.grads, mesh)
    with jax.set_mesh(mesh):
        state = jax.jit(case.tx.init)(params)
        updates, _ = jax.jit(case.tx.update)(grads, state, params)
    expected, _ = update(case.tx, case.grads, case.state, case.params)
    assert_same(updates, expected, atol=2e-6)
    if axis_type == AxisType.Explicit:
        for update_, param in zip(*map(jax.tree.leaves, (updates, params)), strict=True):
            assert update_.sharding == param.sharding


def test_pmap_gives_every_device_the_single_device_result(case):
    replicate = lambda tree: jax.tree.map(lambda x: jnp.stack([x] * 2), tree)
    step = jax.pmap(case.tx.update, axis_name="x", devices=jax.devices()[:2])
    updates, _ = step(replicate(case.grads), replicate(case.state), replicate(case.params))
    expected, _ = update(case.tx, case.grads, case.state, case.params)
    for device in (0, 1):
        assert_same(jax.tree.map(lambda x, d=device: x[d], updates), expected, atol=2e-6)


def test_shard_map_takes_it(case):
    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    everywhere = PartitionSpec()
    step = jax.shard_map(
        case.tx.update, mesh=mesh, in_specs=everywhere, out_specs=everywhere, check_vma=False
    )
    updates, _ = jax.jit(step)(case.grads, case.state, case.params)
    expected, _ = update(case.tx, case.grads, case.state, case.params)
    assert_same(updates, expected, atol=2e-6)
