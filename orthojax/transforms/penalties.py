"""Gradients of penalties of kernels, added to the updates; and a cap of singular values.

As `optax.add_decayed_weights`: before the optimizer a penalty is part of the loss, and Adam divides
it by the root of its second moment; after the optimizer and before the learning rate it is
decoupled, as the weight decay of AdamW:

    optax.chain(add_soft_orthogonality(1e-4), optax.adam(1e-3))                     # in the loss
    optax.chain(optax.scale_by_adam(), add_soft_orthogonality(1e-2), optax.scale(-1e-3))

All are of matrices W [n, p], n >= p (wide kernels are transposed), one a kernel and batch index,
and in closed form: no derivative of an SVD, which is not finite where singular values are equal, as
those of orthonormal W are. For some of the parameters use `optax.masked` or `optax.partition`.
Cost in u, the time of one product n p^2. Leaves of one matrix shape are one batch.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from orthojax.linalg import eye_like, frobenius, matmul, random_columns, sym
from orthojax.matrices import MatrixAxes, Rules, Views
from orthojax.sharding import batch_specs, on_auto_axes
from orthojax.spectral import clip_singular_values, power_step
from orthojax.transforms.riemannian import last_link, require_params


def _defect(w):
    """W'W - I, exactly symmetric."""
    return sym(matmul(w.mT, w)) - eye_like(w)


def _checked(name, value, least):
    # A traced value comes from `optax.inject_hyperparams`.
    if isinstance(value, int | float) and not value >= least:
        raise ValueError(f"`{name}` must be at least {least}, got {value}.")


def _added(name, gradient, weight, axes) -> optax.GradientTransformationExtraArgs:
    """The stateless transformation that adds weight * gradient(W) to the update of each W."""
    _checked("weight", weight, 0)

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        require_params(params, name)
        views = Views.of(params, axes)

        def add(updates, params):
            step = lambda u, w: u + weight * gradient(w)
            added = views.map(step, views.matrices(updates), views.matrices(params))
            return views.unview(added, updates)

        return on_auto_axes(add, updates, params, like=updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update_fn)


def add_soft_orthogonality(
    weight: float | jax.Array, axes: MatrixAxes | Rules | None = None
) -> optax.GradientTransformationExtraArgs:
    """Adds the gradient 4 weight W (W'W - I) of soft orthogonality (SO), weight |W'W - I|_F^2.

    (Bansal, Chen, Wang 2018, arXiv:1810.09102; by rows for wide W.) Its minimum is not reached: the
    loss moves the singular values away from 1, by less the greater the weight. Steps of gradient
    descent are stable where lr weight < 1/4 near orthonormal W.

    Args:
      weight: at least 0.
      axes: as in `reparameterize`.

    Cost: 2 u. No state. Raises ValueError where params are missing or `weight` is negative.

    >>> import jax.numpy as jnp, optax, orthojax
    >>> tx = optax.chain(orthojax.add_soft_orthogonality(1e-2), optax.adam(1e-3))
    >>> params = {"kernel": 2 * jnp.eye(2)}
    >>> add = orthojax.add_soft_orthogonality(0.5)
    >>> add.update({"kernel": jnp.zeros((2, 2))}, add.init(params), params)[0]["kernel"]
    Array([[12.,  0.],
           [ 0., 12.]], dtype=float32)
    """
    return _added("add_soft_orthogonality", lambda w: 4 * matmul(w, _defect(w)), weight, axes)


def add_double_soft_orthogonality(
    weight: float | jax.Array, axes: MatrixAxes | Rules | None = None
) -> optax.GradientTransformationExtraArgs:
    """Adds the gradient of double soft orthogonality (DSO), weight (|W'W - I|_F^2 + |WW' - I|_F^2),
    which is that of `add_soft_orthogonality` with twice the weight.

    (Bansal, Chen, Wang 2018, arXiv:1810.09102.) The trace of (WW')^k is that of (W'W)^k, so
    the two terms differ by the constant n - p, and their gradients not at all: for rows that cannot
    be orthonormal, too, DSO is SO. Arguments and cost as there.
    """
    gradient = lambda w: 8 * matmul(w, _defect(w))
    return _added("add_double_soft_orthogonality", gradient, weight, axes)


def add_mutual_coherence(
    weight: float | jax.Array, axes: MatrixAxes | Rules | None = None
) -> optax.GradientTransformationExtraArgs:
    """Adds the subgradient of mutual coherence (MC), weight max |W'W - I| over its entries.

    (Bansal, Chen, Wang 2018, arXiv:1810.09102; without normalized columns, as there.)
    For the largest entry, of columns i and j, sign(E_ij) w_j for column i and sign(E_ij) w_i for
    column j; the mean over entries where several are largest. Two columns move at a step: a weak
    force, that does not fade near the manifold.

    Args and errors as in `add_soft_orthogonality`. Cost: 2 u. No state.
    """

    def gradient(w):
        e = _defect(w)
        size = jnp.abs(e)
        is_largest = (size == jnp.max(size, axis=(-2, -1), keepdims=True)).astype(w.dtype)
        share = is_largest * jnp.sign(e) / jnp.sum(is_largest, axis=(-2, -1), keepdims=True)
        return 2 * matmul(w, share)

    return _added("add_mutual_coherence", gradient, weight, axes)


class PowerIterationState(NamedTuple):
    """State of `add_srip` and `add_spectral_norm`."""

    power_vectors: (
        chex.ArrayTree
    )  # params tree, each kernel replaced by unit vectors [*batch, p, 1]


def _added_by_power(name, apply, gradient, weight, iterations, axes):
    """The transformation that adds weight * gradient(W, v) to the update of each W, where v is the
    unit vector of the largest |eigenvalue| of the symmetric `apply`(W, .), by power iteration."""
    _checked("weight", weight, 0)
    _checked("iterations", iterations, 1)

    def first(w):
        v = jnp.broadcast_to(random_columns(w, 1), (*w.shape[:-2], w.shape[-1], 1))
        return v / frobenius(v)[..., None, None]

    def init_fn(params):
        views = Views.of(params, axes)
        start = lambda params: (views.map(first, views.matrices(params)),)
        like = batch_specs(views, params, start)
        (vectors,) = on_auto_axes(start, params, like=like)
        return PowerIterationState(power_vectors=vectors)

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        require_params(params, name)
        views = Views.of(params, axes)

        def step(u, w, v):
            v = power_step(lambda v: apply(w, v), v, iterations)
            return u + weight * gradient(w, v), v

        def add(updates, params, vectors):
            matrices = views.matrices(updates), views.matrices(params)
            added, vectors = views.map(step, *matrices, vectors, outputs=2)
            return views.unview(added, updates), vectors

        like = updates, state.power_vectors
        updates, vectors = on_auto_axes(add, updates, params, state.power_vectors, like=like)
        return updates, PowerIterationState(power_vectors=vectors)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def add_srip(
    weight: float | jax.Array, iterations: int = 2, axes: MatrixAxes | Rules | None = None
) -> optax.GradientTransformationExtraArgs:
    """Adds the gradient of the spectral restricted isometry property (SRIP), weight |W'W - I|_2.

    (Bansal, Chen, Wang 2018, arXiv:1810.09102.) At the eigenvector v of the eigenvalue
    that is largest in size it is 2 s (Wv) v', s the sign of |Wv|^2 - 1: one singular value at a
    time is drawn to 1. The paper starts two power iterations at random vectors at every step and
    differentiates through them; here v is kept, so that they go on where they were.

    Args:
      weight: at least 0.
      iterations: of the power method at each update, at least 1. Where the largest eigenvalue of
        either sign are about as large, it converges slowly and v is a mixture.
      axes: as in `reparameterize`.

    State: p numbers a matrix, in at least float32. Cost: 2 `iterations` + 1 products with a vector,
    no matrix product.

    >>> import jax.numpy as jnp, orthojax
    >>> add = orthojax.add_srip(1.0, iterations=20)
    >>> params = {"kernel": jnp.diag(jnp.array([1.5, 0.8]))}
    >>> updates, _ = add.update({"kernel": jnp.zeros((2, 2))}, add.init(params), params)
    >>> jnp.abs(updates["kernel"]).round(1)
    Array([[3., 0.],
           [0., 0.]], dtype=float32)
    """

    def gradient(w, v):
        wv = matmul(w, v)
        above = jnp.sum(wv * wv, axis=(-2, -1), keepdims=True) >= 1
        return jnp.where(above, 2, -2).astype(w.dtype) * matmul(wv, v.mT)

    apply = lambda w, v: matmul(w.mT, matmul(w, v)) - v
    return _added_by_power("add_srip", apply, gradient, weight, iterations, axes)


def add_spectral_norm(
    weight: float | jax.Array, iterations: int = 1, axes: MatrixAxes | Rules | None = None
) -> optax.GradientTransformationExtraArgs:
    """Adds the gradient weight s u v' of weight/2 |W|_2^2, s u v' the largest singular part of W.

    Spectral norm regularization (Yoshida, Miyato 2017, arXiv:1705.10941, with v kept from update to
    update): weight decay of the largest singular value alone.

    Args:
      weight: at least 0.
      iterations: of the power method at each update, at least 1.
      axes: as in `reparameterize`.

    State: p numbers a matrix, in at least float32. Cost: 2 `iterations` + 1 products with a vector,
    no matrix product.
    """
    gradient = lambda w, v: matmul(matmul(w, v), v.mT)
    apply = lambda w, v: matmul(w.mT, matmul(w, v))
    return _added_by_power("add_spectral_norm", apply, gradient, weight, iterations, axes)


def spectral_cap(
    cap: float | jax.Array = 1.0, steps: int = 8, axes: MatrixAxes | Rules | None = None
) -> optax.GradientTransformationExtraArgs:
    """Keeps all singular values at most `cap`: the update that takes W to the nearest matrix of
    spectral norm at most `cap` to W + update, in the Frobenius norm, see
    `orthojax.spectral.clip_singular_values`.

    Projected gradient descent on the ball |W|_2 <= cap, and with updates from `orthogonalize` what
    Newhouse et al. 2025 (arXiv:2507.13338) train Lipschitz-bounded transformers with; singular
    values below the cap stay as they are. No SVD.

    It must be last in its chain: what comes after may leave the ball. Weights that start outside
    are moved there by the first update.

    Args:
      cap: above 0. For an operator norm between root mean squares, sqrt(out / in).
      steps: of the sign iteration; the norm is at most cap (1 + 2e-5) for 8, cap (1 + 1e-3) for 5.
      axes: as in `reparameterize`.

    Cost: 2 u and about 37 products p^3, measured 39 u at 512 x 512 and 7 u at 512 x 128. No state.
    Raises ValueError where params are missing or an argument is out of range.

    >>> import jax.numpy as jnp, optax, orthojax
    >>> tx = optax.chain(optax.adam(1e-3), orthojax.spectral_cap(2.0))
    >>> params = {"kernel": jnp.diag(jnp.array([3.0, 1.0]))}
    >>> updates, _ = tx.update({"kernel": jnp.zeros((2, 2))}, tx.init(params), params)
    >>> (params["kernel"] + updates["kernel"]).round(4)
    Array([[2., 0.],
           [0., 1.]], dtype=float32)
    """
    if isinstance(cap, int | float) and not cap > 0:
        raise ValueError(f"`cap` is the largest singular value, above 0, got {cap}.")
    _checked("steps", steps, 1)
    return last_link("spectral_cap", lambda w, u: clip_singular_values(w + u, cap, steps), axes)
