"""Transformations under `jit`: op by op, every primitive would be compiled as a program."""

import jax


def first_update(tx, grads, params):
    """The updates of the first step from `params`."""
    return jax.jit(lambda grads, params: tx.update(grads, tx.init(params), params)[0])(
        grads, params
    )
