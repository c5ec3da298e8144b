"""Networks that do not stretch: an activation that keeps lengths, and what margins certify."""

import jax
import jax.numpy as jnp

from orthojax.isometric import max_min


def group_sort(x: jax.Array, size: int = 2) -> jax.Array:
    """Each group of `size` neighbouring features of `x` [..., n], sorted in descending order.

    A permutation of the features, chosen by the input: lengths of gradients stay. `size=2` is
    `orthojax.isometric.max_min` (MaxMin). Anil, Lucas, Grosse 2019, arXiv:1811.05381.

    Raises:
      ValueError: `size` does not divide the number of features.

    >>> import jax.numpy as jnp
    >>> group_sort(jnp.array([1.0, 3.0, 2.0, 4.0, 5.0, 6.0]), 3)
    Array([3., 2., 1., 6., 5., 4.], dtype=float32)
    """
    if size < 1 or x.shape[-1] % size:
        raise ValueError(
            f"`size` divides the number of features, got size={size} for x of shape {x.shape}."
        )
    if size == 2:
        return max_min(x)
    groups = x.reshape(*x.shape[:-1], -1, size)
    return jnp.sort(groups, axis=-1, descending=True).reshape(x.shape)


def certified_radius(
    logits: jax.Array,
    labels: jax.Array,
    lipschitz: float = 1.0,
    kernel: jax.Array | None = None,
) -> jax.Array:
    """The Euclidean distance [...] that an input may be moved by, whatever the direction, without a
    change of its class; 0 where the class is not that of `labels`.

        min over j != y of (f_y - f_j) / (L d_j)

    If the logits f are a function with Lipschitz constant L, d_j = sqrt(2) (Tsuzuku, Sato, Sugiyama
    2018, arXiv:1802.04034). If they are h K + b, L that of the features h, d_j =
    |k_y - k_j| with the columns of K (Singla, Singla, Feizi 2022, arXiv:2108.04062): the
    same for orthonormal columns, more for normalized ones that are near to each other.

    Args:
      logits: f, [..., classes].
      labels: y, integers [...].
      lipschitz: L, with respect to the input in which the distance is to be: a network of constant
        1 behind a division by the standard deviation s of pixels has L = 1 / s.
      kernel: K [features, classes], the last layer's.

    >>> import jax.numpy as jnp
    >>> certified_radius(jnp.array([[3.0, 1.0, 0.0], [3.0, 1.0, 0.0]]), jnp.array([0, 1])).round(3)
    Array([1.414, 0.   ], dtype=float32)
    """
    classes = logits.shape[-1]
    own = jnp.take_along_axis(logits, labels[..., None], axis=-1)
    if kernel is None:
        distances = jnp.full((), 2**0.5, logits.dtype)
    else:
        gram = jnp.matmul(kernel.mT, kernel, precision=jax.lax.Precision.HIGHEST)
        lengths = jnp.diagonal(gram)
        apart = jnp.sqrt(jnp.maximum(lengths[:, None] + lengths[None] - 2 * gram, 0))
        distances = apart[labels]
    is_own = jax.nn.one_hot(labels, classes, dtype=bool)
    radii = jnp.where(is_own, jnp.inf, (own - logits) / jnp.where(is_own, 1, lipschitz * distances))
    return jnp.maximum(jnp.min(radii, axis=-1), 0)
