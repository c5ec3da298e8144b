"""Group "polar": the polar factor of a Gaussian update, against `optax.contrib.muon`."""

import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.timing import Case, jax_program
from orthojax.decompositions import orthonormalize, polar_express

# {(implementation, variant, number of quintic steps or None): X [n, p] -> its polar factor}
FACTORS = {
    ("orthojax", "orthonormalize", None): orthonormalize,
    ("orthojax", "5 steps", 5): lambda x: polar_express(x, 5, by_gram=False),
    ("orthojax", "8 steps", 8): lambda x: polar_express(x, 8, by_gram=False),
    ("orthojax", "8 steps, Gram", None): lambda x: polar_express(x, 8, by_gram=True),
}


def _muon(coefficients, preconditioning, steps):
    # Without momentum and decay, and for [n, p], n >= p, not scaled, the update is the factor.
    tx = optax.contrib.muon(
        learning_rate=-1.0,
        ns_coeffs=coefficients,
        ns_steps=steps,
        beta=0.0,
        nesterov=False,
        preconditioning=preconditioning,
    )
    return lambda x: tx.update(x, tx.init(x), x)[0]


FACTORS |= {
    ("optax", f"muon, {preset}, {norm}", 5): _muon(preset, norm, 5)
    for preset, norm in (
        ("standard", "frobenius"),
        ("dion", "frobenius"),
        ("standard", "schatten"),
        ("standard", "aol"),
    )
}


def rms_error(x) -> float:
    """Root of the mean of (sigma - 1)^2 over the singular values."""
    s = np.linalg.svd(np.asarray(x, np.float64), compute_uv=False)
    return float(np.sqrt(np.mean((s - 1) ** 2)))


def cases(shape: tuple[int, int]) -> list[Case]:
    """All of `FACTORS` on a Gaussian [n, p]."""
    x = np.random.default_rng(3).standard_normal(shape)

    def case(key, factor):
        def make():
            measures = lambda result: {"rms_error": rms_error(result)}
            return jax_program(factor, (jnp.asarray(x, jnp.float32),), measures=measures)

        implementation, variant, steps = key
        products = {"products": None if steps is None else 3 * steps}
        return Case("polar", "polar factor", implementation, shape, make, variant, facts=products)

    return [case(*item) for item in FACTORS.items()]
