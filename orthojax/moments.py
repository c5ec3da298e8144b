"""The arrays that an optimizer keeps for each parameter, moved with the parameters' coordinates."""

import functools

import jax
import jax.numpy as jnp
import optax

# Where Optax keeps second moments, or step sizes, that must stay positive; everything else shaped
# like a parameter moves as a gradient. (`n`: adan.)
_SQUARES = {"nu", "nu_max", "sum_of_squares", "e_g", "e_x", "n", "exp_avg_sq", "grad_sum_sq"}
_SQUARES |= {"step_sizes"}


def map_moments(inner, f, inner_state, *trees):
    """The state of `inner` with f(m, squared, *leaves) for each m that it keeps for a parameter.

    Args:
      inner: an Optax transformation.
      f: squared says that m is a mean or sum of squared gradients; `leaves` are the subtrees of
        `trees` in the place of that parameter.
      inner_state: its state.
      *trees: with the structure of params, anything in the place of leaves.
    """

    def moved(squared):
        def one(m, *leaves):
            return m if _is_masked(m) else f(m, squared, *leaves)

        return optax.tree.map_params(inner, one, inner_state, *trees, is_leaf=_is_masked)

    def choose(path, linear, squared):
        names = {getattr(key, "name", None) for key in path}
        return squared if names & _SQUARES else linear

    return jax.tree_util.tree_map_with_path(choose, moved(False), moved(True))


def _is_masked(m):
    """The place of a parameter that a part of `inner` (`optax.masked`, `partition`) passes over."""
    return isinstance(m, optax.MaskedNode)


@functools.lru_cache(maxsize=256)
def _check_elementwise(inner, structure, shapes):
    params = structure.unflatten([jax.ShapeDtypeStruct(*shape) for shape in shapes])
    state = jax.eval_shape(inner.init, params)

    def check(m, param):
        if not _is_masked(m) and m.shape not in ((), param.shape):
            raise ValueError(
                f"`inner` keeps an array of shape {m.shape} for a parameter of shape "
                f"{param.shape}, as adafactor does: it cannot be moved to a low-rank core, nor "
                "does it ignore padding by zeros. Use an optimizer that keeps arrays of the "
                "parameter's shape, e.g. optax.adamw, optax.sgd or optax.lion."
            )

    optax.tree.map_params(inner, check, state, params, is_leaf=_is_masked)


def require_elementwise(inner, params):
    """Raises ValueError unless all that `inner` keeps for a parameter has the parameter's shape."""
    leaves, structure = jax.tree.flatten(params)
    _check_elementwise(inner, structure, tuple((x.shape, jnp.asarray(x).dtype) for x in leaves))
