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


def run(tx, w, g):
    """(W after two steps, state, compiled step)."""
    state = tx.init(w)  # Jitted, it would leave to the compiler where its zeros lie: everywhere.

    def step(w, state, g):
        updates, state = tx.update(g, state, w)
        return optax.apply_updates(w, updates), state

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
