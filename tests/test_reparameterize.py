import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from matrices_of import defect, gaussian, orthonormal
from updates import first_update

import orthojax
from orthojax.linalg import tangent

SHAPES = [(4, 4), (6, 3)]
RETRACTIONS = ["cayley", "exponential", "polar", "qr"]
every_map = pytest.mark.parametrize("name", orthojax.MAPS)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


@every_map
@every_shape
def test_reparameterize_equals_training_theta_directly(x64, name, shape):
    p, target = orthojax.MAPS[name](), gaussian(2, shape)
    loss = lambda w: jnp.sum((w - target) ** 2)
    tx, inner = orthojax.reparameterize(optax.adam(1e-1), name), optax.adam(1e-1)
    params = {"kernel": jnp.asarray(orthonormal(0, shape))}
    base, theta = jax.jit(p.init)(params["kernel"])

    @jax.jit
    def latent(carry, _):
        params, state = carry
        grads = jax.grad(lambda q: loss(q["kernel"]))(params)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def direct(carry, _):
        theta, state = carry
        updates, state = inner.update(
            jax.grad(lambda t: loss(p.forward(base, t)))(theta), state, theta
        )
        return (optax.apply_updates(theta, updates), state), None

    (params, _), _ = jax.lax.scan(latent, (params, jax.jit(tx.init)(params)), length=20)
    (theta, _), _ = jax.lax.scan(direct, (theta, inner.init(theta)), length=20)
    np.testing.assert_allclose(params["kernel"], jax.jit(p.forward)(base, theta), atol=1e-10)


@pytest.mark.parametrize("name", RETRACTIONS)
@every_shape
def test_rebase_every_step_with_sgd_is_riemannian_gradient_descent(x64, name, shape):
    w, g, lr = orthonormal(0, shape), gaussian(1, shape), 0.1
    tx = orthojax.reparameterize(optax.sgd(lr), name, rebase_every=1)
    updates = first_update(tx, g, w)
    expected = orthojax.MAPS[name]().forward(w, -lr * tangent(w, g))
    np.testing.assert_allclose(w + updates, expected, atol=1e-13)


@pytest.mark.parametrize("name", RETRACTIONS)
@every_shape
def test_the_two_links_with_sgd_are_the_same_riemannian_descent(x64, name, shape):
    w, g, lr = orthonormal(0, shape), gaussian(1, shape), 0.1
    links = optax.chain(orthojax.riemannian_gradient(), optax.scale(-lr), orthojax.retract(name))
    engine = orthojax.reparameterize(optax.sgd(lr), name, rebase_every=1)
    by_links = first_update(links, g, w)
    by_engine = first_update(engine, g, w)
    np.testing.assert_allclose(by_links, by_engine, atol=1e-13)


@every_map
@pytest.mark.parametrize(
    "rebase_every", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (None, 10))]
)
def test_the_orthogonality_error_does_not_grow_with_steps_in_float32(name, rebase_every):
    target = gaussian(1, (12, 8), np.float32)
    params = jnp.asarray(orthonormal(0, (12, 8), np.float32))
    tx = orthojax.reparameterize(optax.adam(1e-2), name, rebase_every)

    def step(carry, i):
        params, state = carry
        # A target that turns, so that the weights never come to rest.
        grads = params - target * jnp.cos(i / 100)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    run = jax.jit(
        lambda carry, start, n: jax.lax.fori_loop(
            start, start + n, lambda i, c: step(c, i)[0], carry
        )
    )
    carry, errors, done = (params, jax.jit(tx.init)(params)), [], 0
    for steps in (10, 100, 1000, 10_000):
        carry, done = run(carry, done, steps - done), steps
        errors.append(defect(carry[0]))
    assert max(errors) < 2e-6
    assert np.isfinite(carry[0]).all()


@every_map
@pytest.mark.parametrize("rebase_every", [pytest.param(None, marks=pytest.mark.slow), 7])
def test_a_run_traces_its_step_once(name, rebase_every):
    tx = orthojax.reparameterize(optax.adam(1e-2), name, rebase_every)
    params = {"a": jnp.eye(4), "b": jnp.eye(6, 3)}
    state, traces = jax.jit(tx.init)(params), 0

    @jax.jit
    def step(params, state):
        nonlocal traces
        traces += 1
        updates, state = tx.update(params, state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(15):
        params, state = step(params, state)
    assert traces == 1


@every_map
def test_weights_off_the_manifold_are_moved_there_by_the_first_update(name):
    params = {
        "gaussian": jnp.asarray(gaussian(0, (5, 5), np.float32)),
        "zero": jnp.zeros((6, 3)),
        "rank_one": jnp.ones((4, 8)),
    }
    tx = orthojax.reparameterize(optax.sgd(0.1), name)
    grads = jax.tree.map(jnp.ones_like, params)
    updates = first_update(tx, grads, params)
    for w in optax.apply_updates(params, updates).values():
        assert orthojax.orthogonality_error(w) < 2e-6


def test_the_first_pull_back_does_not_trust_weights_off_the_manifold(x64):
    w, g = 100 * orthonormal(0, (4, 4)), gaussian(1, (4, 4))
    tx = orthojax.reparameterize(optax.sgd(0.1), "cayley")
    updates = first_update(tx, g, w)
    base = w / 100
    expected = orthojax.cayley().forward(base, -0.1 * tangent(base, g))
    np.testing.assert_allclose(w + updates, expected, atol=1e-11)


@every_map
def test_weight_decay_keeps_householder_and_all_others_orthogonal(name):
    # PyTorch keeps Householder's signs in the trained tensor: one step of decay sends W to zero.
    params = jnp.asarray(orthonormal(0, (8, 4), np.float32))
    tx = orthojax.reparameterize(optax.adamw(1e-1, weight_decay=1.0), name)
    state, update = jax.jit(tx.init)(params), jax.jit(tx.update)
    for _ in range(20):
        updates, state = update(jnp.zeros_like(params), state, params)
        params = optax.apply_updates(params, updates)
    assert defect(params) < 2e-6
    np.testing.assert_allclose(params, orthonormal(0, (8, 4)), atol=2e-6)


def test_wide_convolution_and_attention_kernels_are_views():
    attention = orthojax.MatrixAxes(0, 2)
    rules = [("(q|k)/kernel", attention), (".*", None)]
    params = {
        "conv": {"kernel": jnp.asarray(gaussian(0, (3, 3, 4, 8), np.float32))},
        "k": {"kernel": jnp.asarray(gaussian(1, (8, 3, 2), np.float32))},
        "wide": {"kernel": jnp.asarray(gaussian(2, (4, 9), np.float32))},
        "query": {"kernel": jnp.asarray(gaussian(3, (8, 2, 3), np.float32))},
    }
    tx = orthojax.reparameterize(optax.adam(0.1), "cayley", axes=rules)
    updates = first_update(tx, params, params)
    params = optax.apply_updates(params, updates)
    identity = lambda x: np.testing.assert_allclose(x, np.eye(x.shape[-1]), atol=1e-6)
    conv = params["conv"]["kernel"].reshape(36, 8)
    identity(conv.T @ conv)
    identity(params["wide"]["kernel"] @ params["wide"]["kernel"].T)
    query = params["query"]["kernel"].reshape(8, 6)
    identity(query.T @ query)
    for head in range(3):
        per_head = params["k"]["kernel"][:, head]
        identity(per_head.T @ per_head)


def test_a_stack_of_layers_trains_as_its_layers_do(x64):
    w, g = orthonormal(0, (3, 4, 4)), gaussian(1, (3, 4, 4))
    stack = orthojax.reparameterize(
        optax.adam(0.1), "exponential", axes=orthojax.MatrixAxes(-2, -1)
    )
    single = orthojax.reparameterize(optax.adam(0.1), "exponential")
    together = first_update(stack, g, w)
    layers = {str(i): w[i] for i in range(3)}
    apart = first_update(single, {str(i): g[i] for i in range(3)}, layers)
    np.testing.assert_allclose(together, np.stack(list(apart.values())), atol=1e-13)


def test_layers_of_one_shape_are_one_batch():
    tx = orthojax.reparameterize(optax.sgd(0.1), "cayley")

    def solves(layers):
        params = {str(i): jnp.eye(8) for i in range(layers)}
        state = jax.eval_shape(tx.init, params)
        return jax.jit(tx.update).lower(params, state, params).as_text().count("getrf")

    assert solves(1) == solves(10) > 0


def test_a_bfloat16_kernel_follows_its_float32_master(x64):
    w = jnp.asarray(orthonormal(0, (16, 8)), jnp.bfloat16)
    target = gaussian(1, (16, 8)).astype(np.float32)
    tx = orthojax.reparameterize(optax.sgd(1e-3), "cayley")
    state, update = jax.jit(tx.init)(w), jax.jit(tx.update)
    for _ in range(50):
        updates, state = update((w - target).astype(w.dtype), state, w)
        assert updates.dtype == jnp.bfloat16
        w = optax.apply_updates(w, updates)
    master = orthojax.cayley().forward(state.base, state.theta)
    assert master.dtype == jnp.float32
    assert defect(master) < 2e-6
    # The weights are the rounded master, after any number of steps.
    np.testing.assert_array_equal(w, master.astype(jnp.bfloat16))


def test_training_from_a_saved_state_is_bitwise_the_same_run():
    from flax import serialization

    tx = orthojax.orthogonal(optax.adam(1e-2), map="exponential", rebase_every=3)
    params = {"a": {"kernel": jnp.eye(6, 4)}, "b": {"kernel": jnp.eye(5), "bias": jnp.ones(5)}}

    @jax.jit
    def step(carry, i):
        params, state = carry
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), i), 3)
        grads = jax.tree.map(
            lambda p, k: jax.random.normal(k, p.shape),
            params,
            jax.tree.unflatten(jax.tree.structure(params), list(keys)),
        )
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    start = (params, jax.jit(tx.init)(params))
    undisturbed = start
    for i in range(10):
        undisturbed = step(undisturbed, i)
    resumed = start
    for i in range(5):
        resumed = step(resumed, i)
    resumed = serialization.from_bytes(start, serialization.to_bytes(resumed))
    for i in range(5, 10):
        resumed = step(resumed, i)
    jax.tree.map(np.testing.assert_array_equal, undisturbed, resumed)


@pytest.mark.parametrize("rebase_every", [0, -3])
def test_a_bad_rebase_every_is_an_error_that_names_it(rebase_every):
    with pytest.raises(ValueError, match=f"`rebase_every`.*got {rebase_every}"):
        orthojax.reparameterize(optax.sgd(0.1), "cayley", rebase_every)


def test_an_optimizer_that_was_not_called_is_an_error_that_shows_the_call():
    with pytest.raises(TypeError, match=r"`inner`.*optax\.adam\(1e-3\).*function adam"):
        orthojax.reparameterize(optax.adam, "cayley")


def test_a_partition_without_orthogonal_leaves_trains_the_rest():
    params = {"bias": jnp.ones(3)}
    tx = orthojax.orthogonal(optax.sgd(0.1), rebase_every=2)
    with pytest.warns(UserWarning, match="match no parameter"):
        np.testing.assert_allclose(first_update(tx, params, params)["bias"], -0.1)


def test_an_unknown_map_is_an_error_that_lists_the_maps():
    with pytest.raises(ValueError, match=r"cayley.*qr.*did you mean 'cayley'.*'cayle'"):
        orthojax.reparameterize(optax.sgd(0.1), "cayle")


def test_a_leaf_that_is_no_matrix_is_an_error_that_names_it():
    tx = orthojax.reparameterize(optax.sgd(0.1), "cayley")
    with pytest.raises(ValueError, match=r"'dense/bias' of shape \(3,\)"):
        tx.init({"dense": {"bias": jnp.ones(3)}})
    with pytest.raises(ValueError, match=r"'layers/kernel' .*MatrixAxes\(-2, -1\)"):
        tx.init({"layers": {"kernel": jnp.ones((2, 3, 3))}})
