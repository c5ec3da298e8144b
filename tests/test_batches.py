import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from matrices_of import gaussian

from orthojax.batches import in_batches

EQUAL, STACKS, MIXED = [()] * 4, [(2, 3)] * 3, [(), (3,), (2, 3), (0,)]


def grams(x, y):
    return {"gram": x.mT @ y["y"], "corner": y["y"][..., 0, 0]}


def rows_of(batches):
    make = lambda i, b: (gaussian(2 * i, (*b, 5, 4)), {"y": gaussian(2 * i + 1, (*b, 5, 4))})
    return [make(i, batch) for i, batch in enumerate(batches)]


@functools.partial(jax.jit, static_argnums=0)
def batched(batches, rows):
    return in_batches(grams, rows, batches)


@pytest.mark.parametrize("batches", [EQUAL, STACKS, MIXED], ids=["equal", "stacks", "mixed"])
def test_every_row_gets_its_own_result(x64, batches):
    rows = rows_of(batches)
    for actual, (x, y) in zip(batched(tuple(batches), rows), rows, strict=True):
        expected = np.swapaxes(x, -1, -2) @ y["y"]
        np.testing.assert_allclose(actual["gram"], expected, rtol=1e-13)
        np.testing.assert_array_equal(actual["corner"], y["y"][..., 0, 0])


def test_it_is_mapped_and_differentiated(x64):
    rows = [jnp.asarray(gaussian(i, (3, 4, 2))) for i in range(4)]  # Three of each.

    def loss(rows):
        grams = in_batches(lambda x: x.mT @ x, [(x,) for x in rows], [()] * 4)
        return sum(jnp.sum(i * gram) for i, gram in enumerate(grams))

    gradients = jax.jit(jax.vmap(jax.grad(loss)))(rows)
    for i, (gradient, x) in enumerate(zip(gradients, rows, strict=True)):
        sums = np.sum(x, axis=-1, keepdims=True)  # d/dX of sum(X'X) = |X 1|^2 is 2 X 1 1'.
        expected = np.broadcast_to(2 * i * sums, x.shape)
        np.testing.assert_allclose(gradient, expected, rtol=1e-13, atol=1e-13)


def added(arrays):
    """What an optimizer does: a batch, and then something with each of its parts."""
    doubled = in_batches(lambda x: 2 * x, [(x,) for x in arrays], [()] * len(arrays))
    return jax.tree.map(jnp.add, arrays, doubled)


def loops(count):
    """The loops that XLA compiles, apart from those that are the same but for their names."""
    text = jax.jit(added).lower([jnp.ones((4, 3))] * count).compile().as_text()
    text = re.sub(r", (metadata|frontend_attributes)=\{[^}]*\}", "", text)
    bodies = re.findall(r"^%\S* (\(.*?\n\})", text, re.DOTALL | re.MULTILINE)
    return {re.sub(r"[%\w-]*\.?\d+(?=[:,)\s])|%\S+", "", body) for body in bodies if "add(" in body}


def test_what_is_compiled_does_not_grow_with_the_number_of_rows():
    assert len(loops(3)) == len(loops(9)) == 1


def test_other_platforms_get_plain_slices():
    traced = jax.jit(added).trace([jnp.ones((4, 3))] * 3)
    on = lambda platform: traced.lower(lowering_platforms=(platform,)).as_text()
    for platform in ("cuda", "tpu"):
        assert "stablehlo.slice" in on(platform)
        assert not re.search("dynamic_slice|inlineable", on(platform))
    assert "stablehlo.slice" not in on("cpu")


def test_stacks_sharded_over_layers_are_computed_where_they_lie():
    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    over_layers = NamedSharding(mesh, PartitionSpec("x"))
    stacks = [gaussian(i, (4, 3, 2), np.float32) for i in range(3)]
    f = jax.jit(lambda rows: in_batches(lambda x: x.mT @ x, rows, [(4,)] * 3))
    args = [(jax.device_put(x, over_layers),) for x in stacks]
    compiled = f.lower(args).compile()
    collectives = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
    assert not re.search(collectives, compiled.as_text())
    for x, gram in zip(stacks, compiled(args), strict=True):
        np.testing.assert_allclose(gram, np.swapaxes(x, 1, 2) @ x, rtol=1e-5, atol=1e-6)
        assert gram.sharding.is_equivalent_to(over_layers, 3)
