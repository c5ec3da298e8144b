"""The README's Python runs as it stands."""

import re
from pathlib import Path

import flax.linen
import jax
import jax.numpy as jnp
from flax import nnx

import orthojax
from experiments import parallel

README = (Path(__file__).parents[1] / "README.md").read_text()


class Dense(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, x):
        return flax.linen.Dense(3, name="head")(flax.linen.Dense(4, name="hidden_0")(x))


def test_the_python_of_the_readme_runs():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 6
    batch = jnp.ones((2, 4))
    params = Dense().init(jax.random.key(0), batch)["params"]

    def loss(params, batch):
        return jnp.sum(Dense().apply({"params": params}, batch) ** 2)

    names = {
        "jax": jax,
        "nnx": nnx,
        "params": params,
        "loss": loss,
        "batches": [batch],
        "model": nnx.Dict(hidden_0=nnx.Linear(4, 3, rngs=nnx.Rngs(0))),
        "mesh": parallel.make_mesh({"fsdp": 2}),
    }
    first, *others = blocks
    exec(first, names)
    trained, _ = names["step"](params, names["state"], batch)
    assert orthojax.orthogonality_error(trained["hidden_0"]["kernel"]) < 1e-6
    for block in others:
        exec(block, names)
    assert names["method"].is_due(1000)
    assert names["hidden"].layers.kernel.shape == (200, 100, 10)
    assert jax.tree.structure(names["places"]) == jax.tree.structure(names["state"])


def test_every_map_has_a_row_in_the_readme():
    for name in orthojax.MAPS:
        assert f"\n| `{name}` |" in README
