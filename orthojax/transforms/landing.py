"""Steps along the Stiefel manifold by products alone, without a retraction: POGO and landing.

`pogo` and `landing` are the last link of an `optax.chain`, in the place of `retract`. Matrices are
tall, W [n, p]; u is the time of one product n x p by p x p.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import optax

from orthojax.decompositions import orthonormalize
from orthojax.linalg import eye_like, frobenius, gram, largest, matmul, tangent, times
from orthojax.matrices import MatrixAxes, Rules
from orthojax.transforms.riemannian import last_link


def _require_between(name, value, low, high, meaning):
    # A traced value comes from `optax.inject_hyperparams`.
    if isinstance(value, int | float) and not low < value <= high:
        raise ValueError(f"`{name}` is {meaning}, above {low} and at most {high}, got {value}.")


def _defect(x):
    """X'X - I: 1 u."""
    return gram(x, x) - eye_like(x)


def _symmetric_bound(a):
    """Upper bound of the spectral norms [...] of symmetric `a` [..., p, p]: the lesser of Frobenius
    norm and largest absolute row sum. At most sqrt(p) times the norm, and exact for diagonal
    `a`."""
    return jnp.minimum(frobenius(a), jnp.max(jnp.sum(jnp.abs(a), -1), -1))


def _spectral_bound(x):
    """Upper bound of the spectral norms [...] of `x` [..., n, p], at most p^(1/16) times them.

    |X|_2^8 = |(X'X)^4|_2 <= |(X'X)^4|_F, the eighth power of the Schatten norm of order 16 (or the
    row sum, if that is less): 1 u and two products p^3.
    """
    divide = lambda a, scale: a / jnp.where(scale > 0, scale, 1)[..., None, None]
    entry = jnp.max(jnp.abs(x), axis=(-2, -1))  # Squares of 1e30 overflow.
    x = divide(x, entry)
    k = gram(x, x)
    norm = _symmetric_bound(k)
    k = divide(k, norm)
    for _ in range(2):
        k = matmul(k, k)
    return entry * jnp.sqrt(norm) * _symmetric_bound(k) ** (1 / 8)


def pogo(
    order: Literal["cubic", "quintic"] = "quintic",
    max_step: float = 0.5,
    metric: Literal["canonical", "euclidean"] = "canonical",
    axes: MatrixAxes | Rules | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Turns a step U in the ambient space, -lr times what a base optimizer makes of the gradient,
    into one along the Stiefel manifold, by products alone.

    With S the tangent part of U (see `metric`), M = W + S and E = M'M - I, which is S'S for
    orthonormal W, the new weights are M (I + E)^{-1/2}, the polar retraction, to an order in E:

        cubic:   M (I - E/2)             |E|_2 becomes 3/4 |S|_2^4,  4 u
        quintic: M (I - E/2 + 3/8 E^2)   |E|_2 becomes 5/8 |S|_2^6,  4 u and one product p^3

    to leading order. The cubic is POGO (Javaloy, Vergari 2026, arXiv:2602.14656) with lambda = 1/2
    and without its product G W'W, which is G on the manifold. E is measured at every step, so that
    neither the error of a step nor rounding accumulates.

    It must be last in its chain; `riemannian_gradient` before the base optimizer costs 2 u, and is
    needed only for moments of tangent vectors. Weight decay before it has no effect: W has no
    tangent part.

    Where a bound of |E|_2 (Frobenius norm, or row sum if less) is not below `max_step`^2, the step
    is large or the weights are not near the manifold. Then W is first replaced by the nearest
    orthonormal matrix and S multiplied by min(1, max_step / b), |S|_2 <= b <= p^(1/16) |S|_2, b the
    Schatten norm of order 16 or less, from (S'S)^4. This costs three times as much, or more if
    weights are far, and only at such updates: weights that do not start on the manifold are moved
    there by the first one. In bfloat16 steps below the resolution of the weights are lost: use
    `reparameterize`, which keeps a float32 master.

    Args:
      order: "cubic" or "quintic".
      max_step: largest |S|_2 of an update, i.e. (about) the angle by which a vector is turned;
        above 0 and at most 1.
      metric: "canonical", S = (U - W U'W) / 2, as in POGO, half the gradient in this metric if U is
        the gradient; "euclidean", S = U - W sym(W'U), the projection of `retract`, which leaves
        a tangent U as it is. The same for square W.
      axes: as in `reparameterize`. Leaves of one matrix shape are one batch.

    No state. Raises ValueError where params are missing or an argument is out of range.

    >>> import jax, jax.numpy as jnp, optax
    >>> from orthojax.transforms.landing import pogo
    >>> from orthojax.transforms.vector_adam import scale_by_vector_adam
    >>> w = jax.nn.initializers.orthogonal()(jax.random.key(0), (5, 3))
    >>> tx = optax.chain(scale_by_vector_adam(), optax.scale_by_learning_rate(0.1), pogo())
    >>> state = tx.init({"kernel": w})
    >>> updates, state = tx.update({"kernel": w**2}, state, {"kernel": w})
    >>> w = w + updates["kernel"]
    >>> bool(jnp.abs(w.T @ w - jnp.eye(3)).max() < 1e-6)
    True
    """
    if order not in ("cubic", "quintic"):
        raise ValueError(f'`order` is "cubic" or "quintic", got {order!r}.')
    if metric not in ("canonical", "euclidean"):
        raise ValueError(f'`metric` is "canonical" or "euclidean", got {metric!r}.')
    _require_between("max_step", max_step, 0, 1, "the largest spectral norm of a step")

    def tangent_part(w, u):
        return tangent(w, u) if metric == "euclidean" else (u - times(w, gram(u, w))) / 2

    def step(w, u):
        m = w + tangent_part(w, u)
        e = _defect(m)
        bound = _symmetric_bound(e)

        def clipped(m, e):
            base = orthonormalize(w)
            s = tangent_part(base, u)
            clip = max_step / jnp.maximum(_spectral_bound(s), max_step)
            safe = base + clip[..., None, None] * s
            # Each matrix of the batch by itself; NaN is outside, too.
            outside = ~(bound < max_step**2)[..., None, None]
            return jnp.where(outside, safe, m), jnp.where(outside, _defect(safe), e)

        is_outside = ~(largest(bound) < max_step**2)
        m, e = jax.lax.cond(is_outside, clipped, lambda m, e: (m, e), m, e)
        correction = -e / 2 if order == "cubic" else matmul(e, e) * 3 / 8 - e / 2
        return m + times(m, correction)

    return last_link("pogo", step, axes)


_ROUNDING = 1.01  # By how much rounding may move weights beyond `safe_distance`.


def landing(
    attraction: float = 0.1,
    safe_distance: float = 0.5,
    axes: MatrixAxes | Rules | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Turns a step U in the ambient space, -lr times what a base optimizer makes of the gradient,
    into one along the landing field, which slides along the manifold and is drawn to it:

        W + t (skew(UW') W - attraction W (W'W - I))
        = W + t (U (W'W) / 2 - W (U'W / 2 + attraction (W'W - I)))

    (Ablin, Peyre 2022, arXiv:2102.07432, for square W, where this is computed with W skew(W'U) in
    the place of skew(UW') W, the same on the manifold; Ablin, Vary, Gao, Absil 2023,
    arXiv:2303.16510, for tall ones). `attraction` is lr lambda of these papers, so that it does not
    fade with lr. The two parts are orthogonal to each other, on and off the manifold.

    t in (0, 1] is the safe step: with d = |W'W - I|_F <= e = safe_distance, a = attraction and g
    the Frobenius norm of the field, the new distance is at most d - 2 t a d (1 - d) + t^2 g^2, and

        t = min(1, (a d (1 - d) + sqrt(a^2 d^2 (1 - d)^2 + g^2 (e - d))) / g^2)

    keeps that within e. Weights off the manifold are no error but part of the method: a step
    on it leaves |S|^2, S the tangent step, and steps that fade let W converge to it. Where W must
    be orthonormal all the time use `pogo`, at the same cost.

    It must be last in its chain. Weights farther than `safe_distance` from the manifold are
    replaced by the nearest orthonormal ones first. Weight decay before it has no effect. In
    bfloat16 steps below the resolution of the weights are lost: use `reparameterize`.

    Args:
      attraction: above 0 and at most 1/2, with which (and U = 0) the distance is squared at each
        update (Newton-Schulz); the distance shrinks by 1 - 2 attraction.
      safe_distance: above 0 and at most 0.9.
      axes: as in `reparameterize`. Leaves of one matrix shape are one batch.

    Cost: 4 u. No state. Raises ValueError where params are missing or an argument is out of range.

    >>> import jax, jax.numpy as jnp, optax
    >>> from orthojax.transforms.landing import landing
    >>> w = jax.nn.initializers.orthogonal()(jax.random.key(0), (5, 3))
    >>> tx = optax.chain(optax.sgd(0.1, momentum=0.9), landing())
    >>> state = tx.init({"kernel": w})
    >>> updates, state = tx.update({"kernel": w**2}, state, {"kernel": w})
    >>> w = w + updates["kernel"]
    >>> bool(jnp.linalg.norm(w.T @ w - jnp.eye(3)) < 0.5)
    True
    """
    _require_between("attraction", attraction, 0, 0.5, "the attraction to the manifold")
    _require_between("safe_distance", safe_distance, 0, 0.9, "a distance from the manifold")

    def step(w, u):
        defect = _defect(w)
        distance = frobenius(defect)

        def nearest(w, defect):
            outside = ~(distance < _ROUNDING * safe_distance)[..., None, None]
            base = orthonormalize(w)
            return jnp.where(outside, base, w), jnp.where(outside, _defect(base), defect)

        is_outside = ~(largest(distance) < _ROUNDING * safe_distance)
        w, defect = jax.lax.cond(is_outside, nearest, lambda w, defect: (w, defect), w, defect)
        inner = gram(u, w) / 2 + attraction * defect
        field = (u + times(u, defect)) / 2 - times(w, inner)

        d, g = frobenius(defect), frobenius(field)
        g = jnp.where(g > 0, g, 1)
        # Divided by g twice: g^2 overflows, or vanishes, sooner.
        drawn = attraction * d * (1 - d) / g / g
        room = jnp.maximum(safe_distance - d, 0) / g / g
        t = jnp.minimum(1, drawn + jnp.sqrt(drawn**2 + room))
        return w + t[..., None, None] * field

    return last_link("landing", step, axes)
