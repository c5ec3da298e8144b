import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from matrices_of import gaussian, orthonormal

import orthojax
from orthojax.bases import Basis, _opened
from orthojax.matrices import named

RULES = (
    (r"stack/kernel", orthojax.MatrixAxes(1, 2)),
    (r"turned/kernel", orthojax.MatrixAxes(1, 0)),
    (r".*kernel", "low_rank"),
    (r".*", "dense"),
)
SHAPES = {
    "square": {"kernel": (5, 5), "bias": (5,)},
    "tall": {"kernel": (6, 4)},
    "wide": {"kernel": (3, 7), "scale": ()},
    "turned": {"kernel": (5, 5)},
    "conv": {"kernel": (2, 2, 2, 5)},
    "wide_conv": {"kernel": (1, 1, 2, 5)},
    "query": {"kernel": (5, 2, 3), "bias": (2, 3)},
    "out": {"kernel": (2, 3, 5)},
    "stack": {"kernel": (2, 5, 4)},
    "embed": {"embedding": (9, 6)},
}
# How NumPy sees each kernel as tall matrices.
VIEWS = {
    "square/kernel": lambda w: w,
    "tall/kernel": lambda w: w,
    "wide/kernel": lambda w: w.T,
    "turned/kernel": lambda w: w.T,
    "conv/kernel": lambda w: w.reshape(8, 5),
    "wide_conv/kernel": lambda w: w.reshape(2, 5).T,
    "query/kernel": lambda w: w.reshape(5, 6).T,
    "out/kernel": lambda w: w.reshape(6, 5),
    "stack/kernel": lambda w: w,
}


def is_shape(x):
    return isinstance(x, tuple)


def model(seed=0):
    leaves, structure = jax.tree.flatten(SHAPES, is_leaf=is_shape)
    return structure.unflatten([gaussian(seed + i, s) for i, s in enumerate(leaves)])


def projector(x):
    return x @ np.swapaxes(x, -1, -2)


def assert_orthonormal_up_to_rank(basis):
    mask = np.arange(basis.columns) < np.asarray(basis.rank)[..., None]
    for side in (basis.u, basis.v):
        gram = np.swapaxes(side, -1, -2) @ side
        np.testing.assert_allclose(gram, mask[..., None] * np.eye(basis.columns), atol=1e-13)


@pytest.fixture(scope="module")
def cut():
    """(params, cores, bases) by a conversion that drops what is below half of the largest."""
    with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
        params = model()
        method = orthojax.OIALR(delay=0, every=1, cutoff=0.5, rules=RULES, compact=None)
        return params, *method.convert(params)[:2]


def test_conversion_without_a_cutoff_keeps_all_weights_of_all_kinds_of_kernels(x64):
    params = model()
    method = orthojax.OIALR(delay=0, every=1, cutoff=0, rules=RULES)
    cores, bases, _ = method.convert(params)
    assert bases.keys() == VIEWS.keys()
    again = named(jax.jit(orthojax.materialize)(cores, bases))
    for name, leaf in named(params).items():
        np.testing.assert_allclose(again[name], leaf, atol=1e-13)
    for name, basis in bases.items():
        assert_orthonormal_up_to_rank(basis)
        n, p = VIEWS[name](named(params)[name]).shape[-2:]
        assert (basis.matrix_shape, basis.columns) == ((n, p), p)
        assert named(cores)[name].shape[-2:] == (p, p)


def test_truncation_at_conversion_loses_the_dropped_singular_values_and_no_more(x64, cut):
    # Eckart, Young 1936: no matrix of this rank is nearer.
    params, cores, bases = cut
    dense = named(orthojax.materialize(cores, bases))
    for name, view in VIEWS.items():
        s = np.linalg.svd(view(named(params)[name]), compute_uv=False)
        keep = s >= 0.5 * s[..., :1]
        np.testing.assert_array_equal(bases[name].rank, keep.sum(-1))
        error = view(np.asarray(dense[name])) - view(named(params)[name])
        np.testing.assert_allclose(
            np.sum(error**2, axis=(-2, -1)), np.sum(np.where(keep, 0, s**2), -1), atol=1e-12
        )
        assert_orthonormal_up_to_rank(bases[name])
        core = np.asarray(named(cores)[name])
        np.testing.assert_allclose(
            core, np.where(keep, s, 0)[..., None] * np.eye(s.shape[-1]), atol=1e-13
        )


def test_the_gradient_of_a_core_is_that_of_the_kernel_between_the_bases(x64, cut):
    _, cores, bases = cut
    grads = model(seed=50)  # Of the dense kernels, of a loss <G, W>.

    def loss(cores):
        products = jax.tree.map(
            lambda g, w: jnp.sum(g * w), grads, orthojax.materialize(cores, bases)
        )
        return sum(jax.tree.leaves(products))

    got = named(jax.jit(jax.grad(loss))(cores))
    for name, g in named(grads).items():
        if name in bases:
            u, v = np.asarray(bases[name].u), np.asarray(bases[name].v)
            g = np.swapaxes(u, -1, -2) @ VIEWS[name](g) @ v
        np.testing.assert_allclose(got[name], g, atol=1e-13)


def test_a_kernel_that_is_not_finite_is_an_error_that_names_it():
    params = {name: {"kernel": jnp.eye(3) + 0.0} for name in ("fine", "broken")}
    params["broken"]["kernel"] = params["broken"]["kernel"].at[0, 1].set(jnp.nan)
    with pytest.raises(ValueError, match=r"`params` are not finite.*\['broken/kernel'\]"):
        orthojax.OIALR(delay=0, every=1).convert(params)


def singular_cores():
    """A stack of a full core, one of rank 1, a zero one and one of rank 4, in R = 4 columns."""
    rank = np.array([3, 3, 2, 4], np.int32)
    mask = np.arange(4) < rank[:, None]
    u, v = (
        np.where(mask[:, None], orthonormal(seed, (4, n, 4)), 0) for seed, n in ((0, 7), (1, 5))
    )
    core = gaussian(2, (4, 4, 4))
    core[1] = np.outer(core[1, 0], core[1, 1])
    core[2] = 0
    core = np.where(mask[:, :, None] & mask[:, None], core, 0)
    basis = Basis(*map(jnp.asarray, (u, v, rank)), orthojax.MatrixAxes(1, 2), (4, 7, 5))
    return {"kernel": jnp.asarray(core)}, {"kernel": basis}


def test_without_a_cutoff_turning_keeps_even_singular_and_zero_cores_with_padding(x64):
    cores, bases = singular_cores()
    inner = optax.sgd(0.1)
    method = orthojax.OIALR(delay=0, every=1, cutoff=0, compact=None)
    new_cores, new_bases, _ = method.refresh(1, cores, bases, inner.init(cores), inner)
    np.testing.assert_allclose(
        orthojax.materialize(new_cores, new_bases)["kernel"],
        orthojax.materialize(cores, bases)["kernel"],
        atol=1e-12,
    )
    old, new = bases["kernel"], new_bases["kernel"]
    np.testing.assert_array_equal(new.rank, old.rank)
    assert_orthonormal_up_to_rank(new)
    np.testing.assert_allclose(projector(new.u), projector(np.asarray(old.u)), atol=1e-13)
    core = np.asarray(new_cores["kernel"])
    np.testing.assert_array_equal(core, core * np.eye(4))
    np.testing.assert_allclose(
        np.diagonal(core, axis1=1, axis2=2),
        np.linalg.svd(cores["kernel"], compute_uv=False),
        atol=1e-13,
    )


def test_a_core_that_is_not_finite_keeps_its_basis_and_is_reported(x64, caplog):
    cores, bases = singular_cores()
    cores["kernel"] = cores["kernel"].at[1, 0, 0].set(jnp.nan)
    inner = optax.sgd(0.1)
    method = orthojax.OIALR(delay=0, every=1, cutoff=0.5, compact=None)
    _, new, _ = method.refresh(7, cores, bases, inner.init(cores), inner)
    old, new = bases["kernel"], new["kernel"]
    np.testing.assert_array_equal(new.u[1], old.u[1])
    np.testing.assert_array_equal(new.rank[1], old.rank[1])
    assert np.all(np.isfinite(new.u))
    assert not np.allclose(new.u[0], old.u[0])
    assert "SVD of kernel is not finite at step 7: old basis kept." in caplog.text


def test_changes_open_the_layers_from_the_last_to_the_first(x64):
    order = tuple(f"{name}/kernel" for name in "caebd")  # Not that of the tree.
    spectrum = np.array([1.0, 0.9, 0.2, 0.1])
    params = {
        name: {"kernel": jnp.asarray(orthonormal(i, (4, 4)) * spectrum @ orthonormal(9, (4, 4)))}
        for i, name in enumerate("abcde")
    }
    inner = optax.sgd(0.1)
    method = orthojax.OIALR(delay=2, every=3, cutoff=0.5, open=0.4, order=order, compact=None)
    params, bases, state = method.refresh(2, params, {}, inner.init(params), inner)
    assert set(bases) == set(order)
    closed = {name for name, basis in bases.items() if basis.rank == 4}
    assert closed == set(order[:3])  # At change 1 two of five are truncated.
    for step, open_kernels in ((5, 4), (8, 5)):
        # As if trained: full cores, with singular values near to each other.
        for name, basis in bases.items():
            r, core = int(basis.rank), np.zeros((4, 4))
            core[:r, :r] = orthonormal(step, (r, r)) * np.linspace(1.0, 0.9, r)
            params[name[0]] = {"kernel": jnp.asarray(core)}
        before, old = named(params), bases
        params, bases, state = method.refresh(step, params, bases, state, inner)
        turned = {name for name in order if not np.array_equal(old[name].u, bases[name].u)}
        assert turned == set(order[5 - open_kernels :])
        for name in set(order) - turned:
            np.testing.assert_array_equal(named(params)[name], before[name])


def test_rounding_opens_no_layer_too_early():
    # 0.1 * 6 * 25 is 15.000001 in float32.
    order = tuple(map(str, range(25)))
    method = orthojax.OIALR(delay=0, every=1, open=0.1, order=order)
    opened = _opened(method, jnp.int32(6), order)
    assert [name for name in order if opened[name]] == list(order[10:])


@pytest.mark.parametrize(
    ("options", "ranks"),
    [({"max_drop": 0.5}, [4, 2, 1, 1]), ({"max_drop": 0.5, "floor": 0.3}, [4, 2, 2, 2])],
)
def test_one_change_drops_at_most_a_part_of_the_rank_and_never_below_the_floor(x64, options, ranks):
    w = orthonormal(0, (9, 8)) * 10.0 ** -np.arange(8) @ orthonormal(1, (8, 8))
    params, inner, found = {"kernel": jnp.asarray(w)}, optax.sgd(0.1), []
    method = orthojax.OIALR(delay=0, every=1, cutoff=0.5, compact=0.0, **options)
    bases, state = {}, inner.init(params)
    for step in range(4):
        params, bases, state = method.refresh(step, params, bases, state, inner)
        found.append(int(bases["kernel"].rank))
        assert bases["kernel"].columns == found[-1]
    assert found == ranks


def test_a_conversion_keeps_the_precision_in_which_the_optimizer_has_its_moments():
    params = {"kernel": jnp.asarray(gaussian(0, (6, 4)), jnp.bfloat16)}
    method = orthojax.OIALR(delay=0, every=1, cutoff=0)
    for mu_dtype, expected in ((None, jnp.float32), (jnp.bfloat16, jnp.bfloat16)):
        inner = optax.adam(0.1, mu_dtype=mu_dtype)
        cores, bases, state = method.convert(params, inner.init(params), inner)
        assert cores["kernel"].dtype == jnp.float32
        assert optax.tree.get(state, "mu")["kernel"].dtype == expected
        _, _, state = method.refresh(1, cores, bases, state, inner)
        assert optax.tree.get(state, "mu")["kernel"].dtype == expected


def test_new_directions_leave_the_weights_and_keep_the_bases_orthonormal(x64):
    cores, bases = singular_cores()
    inner = optax.sgd(0.1)
    method = orthojax.OIALR(delay=0, every=1, cutoff=0, grow=2, compact=0.0)
    g = gaussian(5, (4, 7, 5))  # dL/dW
    u, v, s = (np.asarray(x) for x in (bases["kernel"].u, bases["kernel"].v, cores["kernel"]))
    grads = g @ v @ np.swapaxes(s, 1, 2), np.swapaxes(g, 1, 2) @ u @ s
    new_cores, new_bases, _ = method.refresh(
        1, cores, bases, inner.init(cores), inner, {"kernel": grads}
    )
    new = new_bases["kernel"]
    # Two more, were there room: of four columns one or none is left, and no gradient reaches the
    # zero core. The next change has room for two, as far as p = 5 goes.
    np.testing.assert_array_equal(new.rank, [4, 4, 2, 4])
    assert new.columns == 5
    np.testing.assert_allclose(
        orthojax.materialize(new_cores, new_bases)["kernel"],
        u @ s @ np.swapaxes(v, 1, 2),
        atol=1e-12,
    )
    assert_orthonormal_up_to_rank(new)
    # The new direction is the one in which the loss falls most outside of the old span.
    outside = (np.eye(7) - projector(u[0])) @ grads[0][0]
    leading = np.linalg.svd(outside)[0][:, 0]
    np.testing.assert_allclose(abs(leading @ np.asarray(new.u[0])), [0, 0, 0, 1, 0], atol=1e-12)


def test_growing_without_gradients_is_an_error_that_says_where_they_come_from(x64):
    cores, bases = singular_cores()
    method = orthojax.OIALR(delay=0, every=1, grow=1)
    with pytest.raises(ValueError, match="`grow` needs `grads`, the basis_gradients"):
        method.refresh(1, cores, bases, (), optax.sgd(0.1))


def test_moments_that_must_be_positive_stay_so(x64):
    optimizers = {
        "adadelta": optax.adadelta(0.1),
        "adan": optax.adan(0.1),
        "amsgrad": optax.amsgrad(0.1),
        "rprop": optax.rprop(0.1),
    }
    params = {name: jnp.asarray(gaussian(i, (6, 4))) for i, name in enumerate(optimizers)}
    inner = optax.partition(optimizers, {name: name for name in optimizers})
    # Means of squares of few entries, so that a rotation of their signs would show.
    grads = {name: jnp.asarray(gaussian(9, (6, 4)) ** 5) for name in optimizers}
    _, state = inner.update(grads, inner.init(params), params)
    method = orthojax.OIALR(delay=0, every=1, cutoff=0.5)
    _, _, state = method.convert(params, state, inner)
    found = 0
    for field in ("nu", "nu_max", "e_g", "e_x", "n", "step_sizes"):
        for _, tree in optax.tree.get_all_with_path(state, field):
            leaves = jax.tree.leaves(tree)
            assert all(np.min(x) >= 0 for x in leaves)
            found += len(leaves)
    assert found == 6
