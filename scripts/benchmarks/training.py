"""Groups "network" and "leaves": a training step with all layers orthogonal against the same
without, and one leaf against many."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.inputs import orthogonality_error, orthonormal
from benchmarks.steps import LEARNING_RATE, TRANSFORMATIONS, bytes_of, make_step
from benchmarks.timing import Case, jax_program

_NETWORK_KEYS = (
    ("cayley", "rebase_every=None"),
    ("cayley", "rebase_every=1"),
    ("exponential", "rebase_every=1"),
    ("qr", "rebase_every=1"),
    ("qr", "retract"),
    ("polar", "retract"),
    ("pogo", "cubic"),
    ("pogo", "quintic"),
    ("landing", ""),
)


def _loss(kernels, x):
    def layer(x, kernel):
        return jnp.tanh(x @ kernel), None

    return jnp.mean((jax.lax.scan(layer, x, kernels)[0] - 1) ** 2)


def network(width: int, layers: int, batch: int) -> list[Case]:
    """Training steps of `layers` layers of `width`, tanh, a stack under scan, SGD with momentum."""
    shape = (layers, width, width)
    sgd = optax.sgd(LEARNING_RATE, momentum=0.9)

    def case(method, variant, implementation, tx):
        def train(kernels, state, x):
            return make_step(tx)(kernels, state, jax.grad(_loss)(kernels, x))

        def make():
            kernels = jnp.asarray(orthonormal(shape), jnp.float32)
            x = jax.random.normal(jax.random.key(4), (batch, width))
            state = jax.jit(tx.init)(kernels)
            copies = bytes_of(state) / kernels.nbytes
            measures = lambda result: {
                "orthogonality_error": orthogonality_error(result[0]),
                "state_copies": copies,
            }
            # The model's own products as its users have them; the constraint's are exact anyway.
            with jax.default_matmul_precision("default"):
                return jax_program(train, (kernels, state), (x,), donate=True, measures=measures)

        unit = "unconstrained" if method == "unconstrained" else None
        facts = {"batch": batch}
        return Case("network", method, implementation, shape, make, variant, unit=unit, facts=facts)

    muon = optax.chain(
        optax.contrib.scale_by_muon(
            weight_dimension_numbers=optax.contrib.MuonDimensionNumbers(-2, -1)
        ),
        optax.scale_by_learning_rate(LEARNING_RATE),
    )
    found = [
        case("unconstrained", "sgd", "optax", sgd),
        case("muon, unconstrained", "5 steps", "optax", muon),
    ]
    return found + [
        case(*key, "orthojax", TRANSFORMATIONS[key](sgd))
        for key in _NETWORK_KEYS
        if key in TRANSFORMATIONS
    ]


def leaves(count: int, n: int) -> list[Case]:
    """Steps on `count` leaves [n, n] of one tree; ours, and Muon."""
    shape, sgd = (count, n, n), optax.sgd(LEARNING_RATE)
    keys = (
        ("cayley", "rebase_every=None"),
        ("exponential", "rebase_every=1"),
        ("qr", "retract"),
        ("pogo", "cubic"),
    )

    def case(method, variant, implementation, tx):
        def make():
            w = {
                f"layer_{i}": jnp.asarray(orthonormal((n, n), i), jnp.float32) for i in range(count)
            }
            g = jax.tree.map(lambda x: jnp.cos(x) / n, w)

            def measures(result):
                return {
                    "orthogonality_error": orthogonality_error(np.stack(list(result[0].values())))
                }

            state = jax.jit(tx.init)(w)
            return jax_program(make_step(tx), (w, state), (g,), donate=True, measures=measures)

        facts = {"leaves": count}
        return Case("leaves", method, implementation, shape, make, variant, facts=facts)

    found = [case(*key, "orthojax", TRANSFORMATIONS[key](sgd)) for key in keys]
    muon = optax.contrib.scale_by_muon(
        weight_dimension_numbers=lambda tree: jax.tree.map(
            lambda _: optax.contrib.MuonDimensionNumbers(), tree
        )
    )
    return [*found, case("muon, unconstrained", "5 steps", "optax", muon)]
