"""What a model does with its parameters, read off its traced program."""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core

from orthojax.matrices import named


def call_order(f: Callable[[Any], Any], params: Any) -> list[str]:
    """Paths of the parameters in the order in which f(params) first uses them.

    `f` is traced, not run: e.g. the loss on one batch, of any framework. Parameters that it does
    not use are left out; to cast or reshape one, as all may be before the first layer, is no use.
    Trees of params are sorted by name (Dense_10 before Dense_2, a head before what it stands on),
    so the first and the last layer cannot be read off them.

    Args:
      f: params -> anything.
      params: arrays or `jax.ShapeDtypeStruct`s.

    >>> import jax.numpy as jnp
    >>> params = {"head": jnp.ones((2, 1)), "inner": jnp.ones((3, 2))}
    >>> call_order(lambda p: jnp.ones(3) @ p["inner"] @ p["head"], params)
    ['inner', 'head']
    """
    leaves = named(params)
    structure = jax.tree.structure(params)
    program = jax.make_jaxpr(lambda *xs: f(structure.unflatten(xs)))(*leaves.values())
    seen = dict.fromkeys(range(len(leaves)), False)
    order = []

    def walk(jaxpr, source):
        """`source` is {variable of `jaxpr`: number of the parameter}."""
        for equation in jaxpr.eqns:
            variables = [v if isinstance(v, core.Var) else None for v in equation.invars]
            walked = 0
            for sub in filter(None, map(_jaxpr_of, _values(equation.params))):
                # The operands of scan, jit, remat and custom derivatives are their last inputs in
                # this order; those before them, such as a cond's index, are no parameters. Kernels
                # of Pallas have more arguments than inputs: not looked into.
                if len(sub.invars) > len(variables):
                    continue
                walked = max(walked, len(sub.invars))
                operands = variables[len(variables) - len(sub.invars) :]
                numbers = dict(zip(sub.invars, map(source.get, operands), strict=True))
                inside = {v: number for v, number in numbers.items() if number is not None}
                walk(sub, inside)
                if len(sub.outvars) == len(equation.outvars):
                    for v, outside in zip(sub.outvars, equation.outvars, strict=True):
                        if isinstance(v, core.Var) and v in inside:
                            source[outside] = inside[v]
            used = variables[: len(variables) - walked]
            if equation.primitive.name in _SAME and used[0] in source:
                source[equation.outvars[0]] = source[used[0]]
                continue
            for number in map(source.get, used):
                if number is not None and not seen[number]:
                    seen[number] = True
                    order.append(number)

    walk(program.jaxpr, {v: i for i, v in enumerate(program.jaxpr.invars)})
    names = list(leaves)
    return [names[i] for i in order]


# What passes a parameter on as it is.
_SAME = {"broadcast_in_dim", "convert_element_type", "copy", "reshape", "squeeze", "transpose"}
_SAME |= {"reduce_precision", "sharding_constraint"}


def _values(params):
    for value in params.values():
        yield from value if isinstance(value, tuple | list) else (value,)


def _jaxpr_of(value):
    if isinstance(value, core.ClosedJaxpr):
        return value.jaxpr
    return value if isinstance(value, core.Jaxpr) else None
