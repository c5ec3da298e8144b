"""Stacks of layers over eight devices."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from matrices_of import gaussian, orthonormal

import orthojax

STACK = orthojax.MatrixAxes(-2, -1)
LAYOUTS = {"layers": ("x",), "rows": (None, "x"), "columns": (None, None, "x")}
TRANSFORMATIONS = {
    "cayley": orthojax.reparameterize(optax.sgd(0.1, momentum=0.9), "cayley", axes=STACK),
    "pogo": optax.chain(optax.sgd(0.1), orthojax.pogo(axes=STACK)),
}


def mesh_of(axis_type=AxisType.Auto):
    return jax.make_mesh((8,), ("x",), axis_types=(axis_type,))


def run(tx, w, g, place=lambda results: results):
    """(W after two steps, state, compiled step)."""
    state = tx.init(w)  # Jitted, it would leave to the compiler where its zeros lie: everywhere.

    def step(w, state, g):
        updates, state = tx.update(g, state, w)
        return place((optax.apply_updates(w, updates), state))

    step = jax.jit(step).lower(w, state, g).compile()
    for _ in range(2):
        w, state = step(w, state, g)
    return w, state, step


@pytest.fixture(scope="module", params=TRANSFORMATIONS)
def single(request):
    tx, shape = TRANSFORMATIONS[request.param], (8, 16, 16)
    w, g = (f(seed, shape).astype(np.float32) for f, seed in ((orthonormal, 0), (gaussian, 1)))
    return tx, w, g, run(tx, w, g)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_results_do_not_depend_on_the_devices_and_these_share_the_work(single, layout):
    tx, w, g, (expected, _, alone) = single
    sharding = NamedSharding(mesh_of(), PartitionSpec(*LAYOUTS[layout]))
    moved, state, step = run(tx, *jax.device_put((w, g), sharding))
    stacks = [x for x in jax.tree.leaves((moved, state)) if jnp.ndim(x) == 3]
    assert all(x.sharding.is_equivalent_to(sharding, 3) for x in stacks)
    np.testing.assert_allclose(moved, expected, atol=2e-6)
    flops = [compiled.cost_analysis()["flops"] for compiled in (step, alone)]
    assert flops[0] < (0.2 if layout == "layers" else 0.4) * flops[1]
    if layout == "layers":
        collectives = re.findall(r"\b(all-gather|all-to-all|collective-permute)", step.as_text())
        assert not collectives


def test_on_explicit_meshes_the_state_lies_where_the_params_do(single):
    tx, w, g, (expected, _, _) = single
    mesh = mesh_of(AxisType.Explicit)
    with jax.set_mesh(mesh):
        w, g = jax.device_put((w, g), NamedSharding(mesh, PartitionSpec("x")))
        moved, state, _ = run(tx, w, g)
    np.testing.assert_allclose(moved, expected, atol=2e-6)
    stacks = [x for x in jax.tree.leaves((moved, state)) if jnp.ndim(x) == 3]
    assert all(x.sharding.spec[0] == "x" for x in stacks)


REPLICATED, ROWS = PartitionSpec(), PartitionSpec(None, "x")


@pytest.mark.parametrize("spec", [REPLICATED, ROWS], ids=["replicated", "rows"])
def test_distribute_gives_each_device_a_share_of_the_matrices(single, spec):
    tx, w, g, (expected, _, alone) = single
    mesh = mesh_of()
    tx = orthojax.distribute(tx, mesh, "x", least=1)

    def place(results):
        to = lambda x: NamedSharding(mesh, spec if x.ndim == 3 else REPLICATED)
        return jax.lax.with_sharding_constraint(results, jax.tree.map(to, results))

    moved, _, step = run(tx, *jax.device_put((w, g), NamedSharding(mesh, spec)), place)
    np.testing.assert_allclose(moved, expected, atol=2e-6)
    flops = [compiled.cost_analysis()["flops"] for compiled in (step, alone)]
    assert flops[0] < 0.2 * flops[1]


@pytest.mark.slow
def test_distribute_joins_leaves_and_leaves_alone_what_is_small():
    shapes = {"a": (6, 16, 16), "b": (5, 16, 16), "few": (2, 8, 8), "small": (8, 4, 4)}
    w = {name: orthonormal(i, s).astype(np.float32) for i, (name, s) in enumerate(shapes.items())}
    g = {name: gaussian(i, s).astype(np.float32) for i, (name, s) in enumerate(shapes.items())}
    tx = orthojax.reparameterize(optax.adam(0.1), "cayley", axes=STACK, rebase_every=1)
    expected, _, alone = run(tx, w, g)
    mesh = mesh_of()
    tx = orthojax.distribute(tx, mesh, "x", least=50)
    whole = NamedSharding(mesh, REPLICATED)
    moved, _, step = run(tx, *jax.device_put((w, g), whole))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-6), moved, expected)
    flops = [compiled.cost_analysis()["flops"] for compiled in (step, alone)]
    assert flops[0] < 0.5 * flops[1]  # 2 of 11 matrices, 1 of 2, and all small ones.
    for axes, message in (("y", "got 'y'; the mesh has x: Auto"), (("x", "y"), "got 'y'")):
        with pytest.raises(ValueError, match=message):
            orthojax.distribute(tx, mesh, axes)
    with pytest.raises(ValueError, match="x: Explicit"):
        orthojax.distribute(tx, mesh_of(AxisType.Explicit), "x")
