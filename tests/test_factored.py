import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matrices_of import gaussian, orthonormal

import orthojax
from orthojax.bases import Basis
from orthojax.factored import Factored, flops, is_factored, pays


def basis_of(seed, n, p, columns, rank, axes=(0, 1), shape=None):
    """Random bases whose columns from `rank` on are zero; `shape` of the kernel, else [n, p]."""
    rank = np.asarray(rank, np.int32)
    mask = (np.arange(columns) < rank[..., None])[..., None, :]
    u, v = (orthonormal(seed + i, (*rank.shape, k, columns)) for i, k in enumerate((n, p)))
    arrays = map(jnp.asarray, (np.where(mask, u, 0), np.where(mask, v, 0), rank))
    return Basis(*arrays, orthojax.MatrixAxes(*axes), shape or (*rank.shape, n, p))


def core_of(seed, basis):
    mask = np.arange(basis.columns) < np.asarray(basis.rank)[..., None]
    core = gaussian(seed, (*basis.rank.shape, basis.columns, basis.columns))
    return jnp.asarray(np.where(mask[..., None] & mask[..., None, :], core, 0))


# Name: (basis, kernel as a matrix [inputs, outputs] from U S V' by NumPy).
BASES = {
    "tall, pays": (lambda: basis_of(0, 12, 7, 3, 2), lambda w: w),
    "tall, does not pay": (lambda: basis_of(1, 12, 7, 7, 6), lambda w: w),
    "wide, pays": (lambda: basis_of(2, 12, 7, 3, 3, shape=(7, 12)), lambda w: w.T),
    "wide, does not pay": (lambda: basis_of(3, 12, 7, 7, 7, shape=(7, 12)), lambda w: w.T),
    "transposed": (lambda: basis_of(4, 7, 7, 2, 2, axes=(1, 0)), lambda w: w.T),
}


def product(basis, core):
    """U S V' by NumPy."""
    return np.asarray(basis.u) @ np.asarray(core) @ np.swapaxes(basis.v, -1, -2)


@pytest.mark.parametrize("name", BASES)
def test_a_product_with_a_factored_kernel_is_that_with_the_dense_one(x64, name):
    make, view = BASES[name]
    basis = make()
    core, w = core_of(5, basis), view(product(basis, core_of(5, basis)))
    x = gaussian(6, (2, 50, w.shape[0]))
    bound = orthojax.bind({"kernel": core}, {"kernel": basis})["kernel"]
    assert bound.pays == ("does not" not in name)
    jitted = jax.jit(lambda kernel: (x @ kernel, jnp.asarray(x) @ kernel, kernel.dense()))
    by_numpy, by_jax, dense = jitted(bound)
    np.testing.assert_allclose(by_numpy, x @ w, atol=1e-12)
    np.testing.assert_allclose(by_jax, x @ w, atol=1e-12)
    np.testing.assert_allclose(dense, w, atol=1e-12)


@pytest.mark.parametrize("name", ["tall, pays", "tall, does not pay"])
def test_the_dense_kernel_is_computed_only_where_that_is_cheaper(x64, name):
    basis = BASES[name][0]()
    bound = Factored(basis, core_of(5, basis))
    gradient = jax.grad(lambda core, x: jnp.sum((x @ Factored(basis, core)) ** 2), argnums=(0, 1))
    program = str(jax.make_jaxpr(gradient)(bound.core, jnp.ones((100, 12))))
    assert ("f64[12,7]" in program) == (not bound.pays)


def test_what_pays_is_what_has_fewer_multiply_adds():
    # By hand: forward x U, S, V', and twice the same for the gradients, but none of U and V.
    assert flops(100, 40, 5) == 2 * (5 * 140 + 5 * 5) + 5 * 5
    assert pays(100, 40, 25)
    assert not pays(40, 40, 26)  # 2 * 26 * 80 + 3 * 676 > 3 * 1600
    assert pays(40, 40, 21)


def test_kernels_of_several_axes_are_applied_to_several_axes(x64):
    # The output projection of attention [heads, width, features].
    basis = basis_of(0, 12, 7, 3, 2, axes=((0, 1), 2), shape=(3, 4, 7))
    core, x = core_of(1, basis), gaussian(2, (5, 3, 4))
    w = product(basis, core).reshape(3, 4, 7)
    np.testing.assert_allclose(
        Factored(basis, core).apply(jnp.asarray(x)), np.einsum("bhd,hdf->bf", x, w), atol=1e-12
    )


def test_a_stack_is_applied_one_by_one(x64):
    basis = basis_of(0, 12, 7, 3, [2, 3], axes=(1, 2))
    core, x = core_of(1, basis), gaussian(2, (2, 5, 12))
    with pytest.raises(ValueError, match=r"is for one matrix, this kernel of shape \(2, 12, 7\)"):
        Factored(basis, core).apply(jnp.asarray(x[0]))
    y = jax.jit(jax.vmap(lambda kernel, x: x @ kernel))(Factored(basis, core), x)
    np.testing.assert_allclose(y, x @ product(basis, core), atol=1e-12)


@pytest.fixture
def tree(x64):
    """(params with cores, bases): a tall and a wide kernel, a stack, a bias."""
    bases = {
        "tall/kernel": basis_of(0, 12, 7, 4, 3),
        "wide/kernel": basis_of(2, 12, 7, 7, 6, shape=(7, 12)),
        "stack/kernel": basis_of(4, 8, 8, 5, [2, 3], axes=(1, 2)),
    }
    params = {
        name.split("/")[0]: {"kernel": core_of(i, basis)}
        for i, (name, basis) in enumerate(bases.items())
    }
    return params | {"bias": jnp.arange(4.0)}, bases


def test_materialized_params_are_the_dense_ones(tree):
    params, bases = tree
    dense = jax.jit(orthojax.materialize)(params, bases)
    assert jax.tree.structure(dense) == jax.tree.structure(params)
    for name, view in (("tall", lambda w: w), ("wide", lambda w: w.T), ("stack", lambda w: w)):
        w = view(product(bases[f"{name}/kernel"], params[name]["kernel"]))
        np.testing.assert_allclose(dense[name]["kernel"], w, atol=1e-13)
    np.testing.assert_array_equal(dense["bias"], params["bias"])
    half = orthojax.materialize(params, bases, jnp.bfloat16)
    assert all(half[name]["kernel"].dtype == jnp.bfloat16 for name in ("tall", "wide", "stack"))


def test_bound_params_pass_no_gradient_to_their_bases(tree):
    params, bases = tree

    def loss(u):
        basis = Basis(
            u, *(getattr(bases["tall/kernel"], f) for f in ("v", "rank", "axes", "shape"))
        )
        bound = orthojax.bind(params, bases | {"tall/kernel": basis})
        return jnp.sum((jnp.ones((3, 12)) @ bound["tall"]["kernel"]) ** 2)

    gradient = jax.jit(jax.grad(loss))(bases["tall/kernel"].u)
    np.testing.assert_array_equal(gradient, 0)


def test_without_bases_binding_changes_nothing(tree):
    params, bases = tree
    assert jax.tree.structure(orthojax.bind(params, {})) == jax.tree.structure(params)
    with pytest.raises(ValueError, match=r"`params` lacks: \['tall/kernel'\]"):
        orthojax.bind({k: v for k, v in params.items() if k != "tall"}, bases)


def test_absorbed_params_have_the_same_outputs_in_fewer_numbers(tree):
    params, bases = tree
    absorbed = orthojax.absorb(params, bases)
    dense = orthojax.materialize(params, bases)
    tall, wide, stack = (absorbed[name]["kernel"] for name in ("tall", "wide", "stack"))
    assert is_factored(tall)
    assert sum(x.size for x in (tall.basis.u, tall.basis.v)) == 3 * (12 + 7)
    x = jnp.asarray(gaussian(9, (6, 12)))
    np.testing.assert_allclose(x @ tall, x @ dense["tall"]["kernel"], atol=1e-12)
    np.testing.assert_allclose(tall.dense(), dense["tall"]["kernel"], atol=1e-13)
    # 6 * (12 + 7) > 12 * 7: dense.
    np.testing.assert_allclose(wide, dense["wide"]["kernel"], atol=1e-13)
    assert stack.basis.columns == 3  # The largest of the stack.
    np.testing.assert_allclose(stack.dense(), dense["stack"]["kernel"], atol=1e-13)
    np.testing.assert_array_equal(absorbed["bias"], params["bias"])


def test_the_size_report_has_the_numbers_counted_by_hand(tree):
    report = orthojax.size_report(*tree)
    dense = 12 * 7 + 7 * 12 + 2 * 8 * 8 + 4
    assert report == {
        "trainable": pytest.approx((3**2 + 6**2 + 2**2 + 3**2 + 4) / dense),
        "stored": pytest.approx((3 * 19 + 9 + 6 * 19 + 36 + 2 * 16 + 4 + 3 * 16 + 9 + 4) / dense),
        "served": pytest.approx((3 * 19 + 84 + 2 * 16 + 3 * 16 + 4) / dense),
        # Of 4, 7 and 5 columns only the first pay, the others are multiplied out.
        "flops": pytest.approx((2 * 4 * 19 + 3 * 16 + 3 * 84 + 3 * 128) / (3 * (84 + 84 + 128))),
        "ranks": {"tall/kernel": 3, "wide/kernel": 6, "stack/kernel": [2, 3]},
    }


def test_a_transformer_block_right_after_the_conversion_trains_a_third_and_stores_more(x64):
    shapes = {"qkv": (8, 24), "out": (8, 8), "up": (8, 32), "down": (32, 8)}
    params = {name: {"kernel": jnp.asarray(gaussian(0, s))} for name, s in shapes.items()}
    cores, bases, _ = orthojax.OIALR(delay=0, every=1, cutoff=0).convert(params)
    report = orthojax.size_report(cores, bases)
    assert report["trainable"] == pytest.approx(1 / 3)
    assert report["stored"] > 1
    assert report["served"] == report["flops"] == 1


def test_before_the_conversion_the_report_is_that_of_the_dense_model():
    report = orthojax.size_report({"kernel": jnp.ones((4, 3))}, {})
    assert report == {"trainable": 1, "stored": 1, "served": 1, "flops": 1, "ranks": {}}


def test_gradients_of_bases_are_those_of_the_dense_kernel_between_the_other_factors(tree):
    params, bases = tree
    x, y = gaussian(7, (9, 12)), gaussian(8, (9, 12))

    def loss(params):
        h = jnp.tanh(x @ params["tall"]["kernel"])
        return jnp.mean((h @ params["wide"]["kernel"] - y) ** 2) + jnp.sum(params["bias"] ** 2)

    used = {name: bases[name] for name in ("tall/kernel", "wide/kernel")}
    got = jax.jit(functools.partial(orthojax.basis_gradients, loss))(params, used)
    dense = jax.jit(jax.grad(loss))(orthojax.materialize(params, bases))
    assert got.keys() == used.keys()
    for name, view in (("tall", lambda g: g), ("wide", lambda g: g.T)):
        g, s = view(np.asarray(dense[name]["kernel"])), np.asarray(params[name]["kernel"])
        basis = bases[f"{name}/kernel"]
        du, dv = got[f"{name}/kernel"]
        np.testing.assert_allclose(du, g @ basis.v @ s.T, atol=1e-13)
        np.testing.assert_allclose(dv, g.T @ basis.u @ s, atol=1e-13)
