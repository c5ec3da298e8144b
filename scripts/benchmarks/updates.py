"""Groups "updates", steps that orthogonalize or penalize, and "rotations", the nearest rotation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import orthojax
from benchmarks.inputs import orthonormal
from benchmarks.steps import LEARNING_RATE, STACK, gradient, program
from benchmarks.timing import Case, jax_program
from orthojax.decompositions import polar_express
from orthojax.linalg import matmul, sym
from orthojax.nearest_rotation import nearest_rotation

# {(method, variant): transformation of one leaf [n, p]}
TRANSFORMATIONS = {
    ("manifold muon", ""): orthojax.manifold_muon(LEARNING_RATE, axes=STACK),
    ("muon", "Polar Express"): orthojax.muon(LEARNING_RATE, axes=STACK),
    ("muon", "Newton-Schulz"): orthojax.muon(LEARNING_RATE, method="newton_schulz", axes=STACK),
    ("spectral sphere", ""): orthojax.spectral_sphere(LEARNING_RATE, axes=STACK),
    ("spectral cap", ""): optax.chain(
        optax.sgd(LEARNING_RATE), orthojax.spectral_cap(1.0, axes=STACK)
    ),
    ("soft orthogonality", ""): optax.chain(
        orthojax.add_soft_orthogonality(1e-2, STACK), optax.sgd(LEARNING_RATE)
    ),
    ("SRIP", ""): optax.chain(orthojax.add_srip(1e-2, axes=STACK), optax.sgd(LEARNING_RATE)),
}


def dual_ascent(steps: int = 100) -> optax.GradientTransformation:
    """Muon on the manifold as published (Bernstein 2025, thinkingmachines.ai/blog/
    modular-manifolds), with our polar factors: A = msign(G + 2 W L), L by ascent along -(W'A + A'W)
    with a falling rate, then a polar factor of W - rate A."""
    msign = lambda x: polar_express(x, 8)

    def update(g, state, w):
        first = -0.5 * sym(matmul(w.mT, g))

        def climb(k, dual):
            a = msign(g + 2 * matmul(w, dual))
            h = 2 * sym(matmul(w.mT, a))
            return dual - 0.01 * (1 - k / steps) * h

        a = msign(g + 2 * matmul(w, jax.lax.fori_loop(0, steps, climb, first)))
        return msign(w - LEARNING_RATE * a) - w, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def cases(shape: tuple[int, int]) -> list[Case]:
    """Ours, Optax's Muon and the dual ascent, on one leaf [n, p]."""

    def case(key, tx, implementation="orthojax"):
        make = lambda: program(tx, shape, "float32", exact=False)
        return Case("updates", key[0], implementation, shape, make, key[1])

    peers = [
        case(("muon", "Newton-Schulz"), optax.contrib.muon(LEARNING_RATE), "optax"),
        case(("manifold muon", "dual ascent, 100 steps"), dual_ascent(), "jax"),
    ]
    return [*(case(key, tx) for key, tx in TRANSFORMATIONS.items()), *peers]


def _by_svd(x):
    u, _, vt = jnp.linalg.svd(x)
    sign = jnp.linalg.det(matmul(u, vt))[..., None]
    return matmul(
        u * jnp.concatenate([jnp.ones((*sign.shape[:-1], 2)), sign], -1)[..., None, :], vt
    )


def rotations(count: int) -> list[Case]:
    """The nearest rotation of `count` Gaussian 3 x 3 matrices, and with its gradient."""
    x = jnp.asarray(np.random.default_rng(5).standard_normal((count, 3, 3)), jnp.float32)
    target = jnp.asarray(orthonormal((count, 3, 3)), jnp.float32)
    g = jnp.asarray(gradient((count, 3, 3)), jnp.float32)
    found = []
    for implementation, nearest in (("orthojax", nearest_rotation), ("jax", _by_svd)):
        value_and_grad = jax.value_and_grad(lambda x, n=nearest: jnp.sum((n(x) - target) * g))
        for variant, f in (("value", nearest), ("value and gradient", value_and_grad)):
            make = lambda f=f: jax_program(f, (x,))
            found.append(Case("rotations", "nearest", implementation, x.shape, make, variant))
    return found
