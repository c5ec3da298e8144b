"""The order of parameters, for programs in which everything that JAX nests is nested."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from flax import nnx
from jax.experimental import pallas as pl

from orthojax import call_order

# Sorted by name the order is never that of the call.
PARAMS = {name: jnp.ones((3, 3)) for name in ("a", "b", "c", "d")}
X = jnp.ones((3, 3))


def plain(p):
    return X @ p["c"] @ p["a"] @ p["b"]


def jitted(p):
    inner = jax.jit(lambda x, p: jax.jit(lambda x, w: x @ w)(x, p["a"]) @ p["b"])
    return jax.jit(lambda x, p: inner(x @ p["c"], p))(X, p)


def scanned(p):
    def layer(x, w):
        return (x @ w["c"]) @ w["a"], None

    x, _ = jax.lax.scan(layer, X, {k: p[k][None] for k in ("a", "c")})
    return x @ p["b"]


def scanned_over_constants(p):
    x, _ = jax.lax.scan(lambda x, _: (x @ p["c"] @ p["a"], None), X, length=2)
    return x @ p["b"]


def rematerialized(p):
    return (
        jax.checkpoint(lambda p, x: jax.checkpoint(jnp.matmul)(x, p["c"]) @ p["a"])(p, X) @ p["b"]
    )


def conditional(p):
    x = jax.lax.cond(jnp.sum(X) > 0, lambda p: X @ p["c"], lambda p: X @ p["c"] @ p["a"], p)
    return x @ p["a"] @ p["b"]


def with_its_own_gradient(p):
    @jax.custom_vjp
    def f(p, x):
        return x @ p["c"] @ p["a"]

    f.defvjp(lambda p, x: (f(p, x), (p, x)), lambda res, g: (res[0], g))
    return f(p, X) @ p["b"]


def with_its_own_jvp(p):
    f = jax.custom_jvp(lambda p, x: x @ p["c"] @ p["a"])
    f.defjvp(lambda primals, tangents: (f(*primals), tangents[1]))
    return f(p, X) @ p["b"]


def cast_before_use(p):
    cast = jax.jit(lambda p: jax.tree.map(lambda x: x.astype(jnp.bfloat16).T.reshape(3, 3), p))
    return plain(cast(p))


def in_a_loop(p):
    x = jax.lax.while_loop(lambda x: jnp.sum(x) < 0, lambda x: x @ p["c"] @ p["a"], X)
    return x @ p["b"]


def in_pallas(p):
    def kernel(x, w, out):
        out[...] = x[...] @ w[...]

    call = pl.pallas_call(kernel, out_shape=jax.ShapeDtypeStruct((3, 3), jnp.float32))
    return call(call(X, p["c"]), p["a"]) @ p["b"]


def differentiated(p):
    return jax.grad(lambda p: jnp.sum(plain(p)))(p)


@pytest.mark.parametrize(
    "f",
    [
        plain,
        jitted,
        scanned,
        scanned_over_constants,
        rematerialized,
        conditional,
        with_its_own_gradient,
        with_its_own_jvp,
        cast_before_use,
        in_a_loop,
        in_pallas,
        differentiated,
    ],
)
def test_parameters_are_found_in_the_order_of_their_use_and_unused_ones_are_not(f):
    assert call_order(f, PARAMS) == ["c", "a", "b"]
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), PARAMS)
    assert call_order(f, shapes) == ["c", "a", "b"]


class Backwards(nn.Module):
    """Names against the order: Dense_10 before Dense_2, and `a_head` before all."""

    @nn.compact
    def __call__(self, x):
        for _ in range(12):
            x = nn.Dense(4)(x)
        x = nn.remat(nn.Dense)(4, name="rematerialized")(x)
        return nn.Dense(2, name="a_head")(x)


def test_layers_of_a_linen_model_are_found_in_the_order_of_the_forward_pass():
    model, x = Backwards(), jnp.ones((1, 4))
    params = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
    order = call_order(lambda p: model.apply({"params": p}, x), params)
    layers = [f"Dense_{i}" for i in range(12)] + ["rematerialized", "a_head"]
    assert order == [f"{layer}/{leaf}" for layer in layers for leaf in ("kernel", "bias")]
    assert sorted(order) != order


def test_layers_of_an_nnx_model_are_found_in_the_order_of_the_forward_pass():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.z = nnx.Linear(4, 4, use_bias=False, rngs=rngs)
            self.a = nnx.Linear(4, 4, use_bias=False, rngs=rngs)

        def __call__(self, x):
            return self.a(self.z(x))

    graphdef, params = nnx.split(nnx.eval_shape(lambda: Model(nnx.Rngs(0))))
    loss = lambda p: nnx.merge(graphdef, p)(jnp.ones((1, 4)))
    assert call_order(loss, params) == ["z/kernel", "a/kernel"]
    assert call_order(loss, nnx.to_pure_dict(params)) == ["z/kernel", "a/kernel"]
