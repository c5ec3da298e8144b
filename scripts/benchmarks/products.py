"""FLOPs of a training step by hand: from the products of its forward pass and the ranks."""

import math

from jax.extend import core

from orthojax.factored import flops, pays_for


def products(jaxpr):
    """(shape of the right side, shape of the result, multiply-adds, whether by a kernel) of each
    product of a traced program, in order; one inside a loop counts once."""
    for equation in jaxpr.eqns:
        for sub in core.jaxprs_in_params(equation.params):
            yield from products(sub)
        if equation.primitive.name not in ("dot_general", "conv_general_dilated"):
            continue
        right, result = (v.aval.shape for v in (equation.invars[1], equation.outvars[0]))
        if equation.primitive.name == "dot_general":
            (_, summed), (_, together) = equation.params["dimension_numbers"]
            inner, by_kernel = math.prod(right[a] for a in summed), not together
        else:
            inner, by_kernel = math.prod(right[:-1]), True
        yield right, result, math.prod(result) * inner, by_kernel


def training_flops(jaxpr, names, ranks, devices=1) -> float:
    """FLOPs of the products of a data-parallel training step per device, two a multiply-add.

    For each row 3 n p of a dense kernel [n, p] and 2 r (n + p) + 3 r^2 of a factored one, or, where
    `orthojax.factored.pays_for` finds it cheaper, 3 n p and once 2 p r (n + r) for W = U S V'; of
    these the first kernel needs no gradient of its input. Products of activations: three times the
    forward pass. All windows of a convolution count as whole, also at the border.

    Args:
      jaxpr: of the dense forward pass, of the whole batch.
      names: of the kernels [*window, inputs, outputs] in the order in which it uses them.
      ranks: {name: rank} of the factored ones.
      devices: over which the batch is split; W is computed on each.
    """
    found = list(products(jaxpr))
    once, shared = (
        0,
        3 * sum(multiply_adds for *_, multiply_adds, by_kernel in found if not by_kernel),
    )
    uses = [(shape, result) for shape, result, _, by_kernel in found if by_kernel]
    for i, (name, (shape, result)) in enumerate(zip(names, uses, strict=True)):
        inputs, outputs, rows = math.prod(shape[:-1]), shape[-1], math.prod(result[:-1])
        n, p = max(inputs, outputs), min(inputs, outputs)
        rank = ranks.get(name)
        if rank and pays_for(n, p, rank, rows):
            shared += rows * (flops(n, p, rank) - (i == 0) * rank * (inputs + rank))
        else:
            shared += (3 - (i == 0)) * rows * n * p
            once += 2 * p * rank * (n + rank) if rank else 0
    return 2 * (shared / devices + once)
