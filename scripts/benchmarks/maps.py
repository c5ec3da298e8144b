"""Group "maps": W and the gradient of a loss of W with respect to the free parameters of a map."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.inputs import dense, problem
from benchmarks.timing import Case, Program, Skipped, jax_program
from orthojax import MAPS, Parameterization
from orthojax.maps.cayley import cayley_map
from orthojax.maps.exponential import expm

_MOST_BYTES = 2**30


def _by_vjp(f):
    def run(theta, g):
        w, pull_back = jax.vjp(f, theta)
        return w, pull_back(g)[0]

    return run


def _as_trained(parameterization: Parameterization, base):
    """As `reparameterize` calls it."""
    if parameterization.pull_back is None:
        return _by_vjp(lambda theta: parameterization.forward(base, theta))

    def run(theta, g):
        w = parameterization.forward(base, theta)
        return w, parameterization.pull_back(base, theta, w, g)

    return run


def _ours(method, shape):
    def make() -> Program:
        p, at = MAPS[method](), problem(method, shape)
        base = jnp.broadcast_to(jnp.eye(*shape[-2:]), shape)
        theta = at.theta
        if method == "householder":
            base = jnp.ones((*shape[:-2], shape[-1]))
        elif method in ("qr", "polar"):
            theta = theta - np.eye(*shape[-2:])
        return _program(_as_trained(p, base), at, theta)

    return Case("maps", method, "orthojax", shape, make, "as trained")


def _program(run, at, theta):
    theta, cotangent = (jnp.asarray(x, jnp.float32) for x in (theta, at.cotangent))
    return jax_program(run, (theta, cotangent), measures=lambda result: at.measures(*result))


def _solved(a):
    """The Cayley transform as one writes it down."""
    eye = jnp.eye(a.shape[-1])
    return jnp.linalg.solve(eye - a / 2, eye + a / 2)


def _one_by_one(v):
    """The reflections as one writes them down."""
    n, p = v.shape[-2:]

    def step(w, x):
        x = x[..., None]
        return w - x * (2 / jnp.sum(x * x, -2, keepdims=True)) * (x.mT @ w), None

    w = jnp.broadcast_to(jnp.eye(n, p), v.shape)
    return jax.lax.scan(step, w, jnp.moveaxis(v, -1, 0), reverse=True)[0]


def _qr(x):
    q, r = jnp.linalg.qr(x)
    return q * jnp.sign(jnp.diagonal(r, axis1=-2, axis2=-1))[..., None, :]


def _polar(x):
    u, _, vt = jnp.linalg.svd(x, full_matrices=False)
    return u @ vt


def _columns(f):
    return lambda theta: f(dense(theta, jnp))[..., : theta.shape[-1]]


def _batched(f):
    """`jax.scipy.linalg.expm` takes one matrix: its users write `vmap`."""

    return lambda a: f(a) if a.ndim == 2 else jax.vmap(_batched(f))(a)


# {(method, implementation, name of the row): f(theta) -> W}
_FUNCTIONS = {
    ("exponential", "jax", "scipy.linalg.expm"): _columns(_batched(jax.scipy.linalg.expm)),
    ("cayley", "jax", "autodiff of solve"): _columns(_solved),
    ("householder", "jax", "autodiff of scan"): _one_by_one,
    ("qr", "jax", "autodiff of qr"): _qr,
    ("polar", "jax", "autodiff of svd"): _polar,
}
_OF_SKEW = {
    ("exponential", "orthojax", "expm"): expm,
    ("cayley", "orthojax", "cayley_map"): cayley_map,
}
METHODS = ("exponential", "cayley", "householder", "qr", "polar")


def _by_function(key, f, shape):
    method, implementation, name = key

    def make():
        if method == "householder":
            needed = 4 * math.prod(shape) * shape[-1]
            if needed > _MOST_BYTES:
                raise Skipped(f"keeps {needed / 2**30:.0f} GiB for the gradient")
        at = problem(method, shape)
        return _program(_by_vjp(f), at, at.theta)

    return Case("maps", method, implementation, shape, make, name)


def cases(shape: tuple[int, ...], methods: tuple[str, ...] = METHODS) -> list[Case]:
    """Ours, and what JAX has, on matrices of `shape`."""
    functions = dict(_FUNCTIONS)
    if shape[-1] == shape[-2]:
        functions |= _OF_SKEW
    found = [_ours(method, shape) for method in methods]
    return found + [
        _by_function(key, f, shape) for key, f in functions.items() if key[0] in methods
    ]
