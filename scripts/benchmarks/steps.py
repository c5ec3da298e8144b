"""Group "steps": a whole optimizer step, the gradient of W in, the new W out; jitted and donated.

SGD inside, so that what is timed is the constraint. The gradient is the same at each call, of
spectral norm 1 or less, and the learning rate `LEARNING_RATE`.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import orthojax
from benchmarks.inputs import orthogonality_error, orthonormal, relative_error
from benchmarks.timing import Case, Program, jax_program
from orthojax.transforms.landing import landing, pogo

LEARNING_RATE = 0.01
STACK = orthojax.MatrixAxes(-2, -1)


def gradient(shape: tuple[int, ...]) -> np.ndarray:
    """A Gaussian of spectral norm about 1, float64."""
    n, p = shape[-2:]
    return np.random.default_rng(2).standard_normal(shape) / (n**0.5 + p**0.5)


def reparameterized(name: str, rebase_every: int | None, sgd: optax.GradientTransformation):
    """`orthojax.reparameterize` of stacks, QR by Cholesky."""
    map_ = orthojax.maps.qr("cholesky") if name == "qr" else name
    return orthojax.reparameterize(sgd, map_, rebase_every, axes=STACK)


def _chain(*links):
    return lambda sgd: optax.chain(sgd, *(link(axes=STACK) for link in links))


def _rebased(name, every):
    return lambda sgd: reparameterized(name, every, sgd)


# {(method, variant): inner optimizer -> transformation}
TRANSFORMATIONS: dict[tuple[str, str], Callable[..., optax.GradientTransformation]] = {
    (name, f"rebase_every={every}"): _rebased(name, every)
    for name in ("cayley", "exponential", "qr")
    for every in (None, 1, 10)
}
TRANSFORMATIONS |= {
    ("householder", "rebase_every=None"): _rebased("householder", None),
    ("polar", "rebase_every=1"): _rebased("polar", 1),
    ("qr", "retract"): _chain(lambda axes: orthojax.retract("qr", axes)),
    ("polar", "retract"): _chain(lambda axes: orthojax.retract("polar", axes)),
    ("cayley", "retract"): _chain(lambda axes: orthojax.retract("cayley", axes)),
    ("pogo", "cubic"): _chain(lambda axes: pogo("cubic", axes=axes)),
    ("pogo", "quintic"): _chain(lambda axes: pogo("quintic", axes=axes)),
    ("landing", ""): _chain(lambda axes: landing(axes=axes)),
}
# The cheap ones, for shapes where all would take long.
STEEP = [key for key in TRANSFORMATIONS if key[0] in ("pogo", "landing") or key[1] == "retract"]


def bytes_of(tree: Any) -> int:
    """Bytes of all arrays of `tree`."""
    return sum(x.nbytes for x in jax.tree.leaves(tree))


def make_step(tx: optax.GradientTransformation) -> Callable[..., tuple]:
    """(W, state, G) -> (W, state)."""

    def step(w, state, g):
        updates, state = tx.update(g, state, w)
        return optax.apply_updates(w, updates), state

    return step


def _exact_step(tx, shape):
    """W after one step in float64."""

    def run(w, g):
        return make_step(tx)(w, tx.init(w), g)[0]

    with jax.enable_x64(True):
        return np.asarray(jax.jit(run)(orthonormal(shape), gradient(shape)))


def program(tx: optax.GradientTransformation, shape, dtype, exact: bool) -> Program:
    """The step of `tx`; if `exact` with the error of the first one against float64."""
    w, g = (jnp.asarray(x, dtype) for x in (orthonormal(shape), gradient(shape)))
    state = jax.jit(tx.init)(w)
    copies = bytes_of(state) / w.nbytes
    firsts = []

    def first(result):
        if exact:
            firsts.append(np.asarray(result[0]))

    def measures(result):
        found = {
            "orthogonality_error": orthogonality_error(result[0].astype(jnp.float32)),
            "state_copies": copies,
        }
        if exact:
            found["relative_error"] = relative_error(firsts[0], _exact_step(tx, shape))
        return found

    return jax_program(make_step(tx), (w, state), (g,), donate=True, first=first, measures=measures)


def cases(
    shape: tuple[int, ...],
    keys: Any = TRANSFORMATIONS,
    dtype: str = "float32",
    largest_exact: int = 0,
    group: str = "steps",
) -> list[Case]:
    """Ours on one leaf of `shape`; up to `largest_exact` entries with the error of one step."""
    exact = dtype == "float32" and math.prod(shape) <= largest_exact

    def case(key):
        def make():
            tx = TRANSFORMATIONS[key](optax.sgd(LEARNING_RATE))
            return program(tx, shape, dtype, exact)

        return Case(group, key[0], "orthojax", shape, make, key[1], dtype)

    return [case(key) for key in keys]
