"""Group "steps" by PyTorch and its packages."""

import numpy as np

from benchmarks.inputs import orthogonality_error, orthonormal, relative_error
from benchmarks.steps import LEARNING_RATE, gradient
from benchmarks.timing import Case
from benchmarks.torch_peers import (
    PACKAGES,
    PARAMETRIZATIONS,
    as_numpy,
    attached,
    missing,
    program,
    require_time,
    tensor,
    torch_module,
)


def _geoopt(canonical):
    def make(w):
        import geoopt

        point = geoopt.ManifoldParameter(w, manifold=geoopt.Stiefel(canonical=canonical))
        return point, geoopt.optim.RiemannianSGD([point], LEARNING_RATE)

    return make


def _pogo(w):
    import pogo
    from pogo.base import SGD

    point = torch_module().nn.Parameter(w if w.ndim > 2 else w[None])
    return point, pogo.POGO([point], SGD(), LEARNING_RATE, rows=False)


# {(method, implementation, variant): W -> (parameter, optimizer)}
_OPTIMIZERS = {
    ("qr", "geoopt", "RiemannianSGD"): _geoopt(False),
    ("cayley", "geoopt", "RiemannianSGD"): _geoopt(True),
    ("pogo", "pogo", "POGO, SGD"): _pogo,
}


def _step(make, shape, dtype):
    """The point, and a function that makes one step."""
    point, optimizer = make(tensor(orthonormal(shape), dtype))
    g = tensor(gradient(shape), dtype).reshape(point.shape)

    def call():
        point.grad = g
        optimizer.step()

    return point, call


def cases(
    shape: tuple[int, ...],
    most_seconds: float,
    methods: tuple[str, ...] | None = None,
    dtype: str = "float32",
    group: str = "steps",
) -> list[Case]:
    """Steps of Riemannian SGD and POGO, and of SGD through the parametrizations."""

    def optimizer(key):
        def make():
            # Its canonical retraction solves n x n.
            require_time("cayley" if key[0] == "cayley" else "qr", shape, most_seconds)
            w, call = _step(_OPTIMIZERS[key], shape, dtype)

            def measures():
                found = {"orthogonality_error": orthogonality_error(as_numpy(w))}
                if dtype == "float32" and shape[-2] <= 1024:
                    firsts = []
                    for precision in ("float32", "float64"):
                        first, once = _step(_OPTIMIZERS[key], shape, precision)
                        once()
                        firsts.append(as_numpy(first))
                    found["relative_error"] = relative_error(*firsts)
                return found

            return program(call, measures)

        return Case(group, key[0], key[1], shape, make, key[2], dtype)

    def parametrization(key):
        def make():
            require_time(key[0], shape, most_seconds)
            torch = torch_module()
            module = attached(key, shape, np.broadcast_to(np.eye(*shape[-2:]), shape))
            original = module.parametrizations.weight.original
            if key[0] != "householder":
                original.data.zero_()
            sgd, g = torch.optim.SGD([original], LEARNING_RATE), tensor(gradient(shape))

            def call():
                sgd.zero_grad()
                module.weight.backward(g)
                sgd.step()

            measures = lambda: {"orthogonality_error": orthogonality_error(as_numpy(module.weight))}
            return program(call, measures)

        return Case(group, key[0], key[1], shape, make, "SGD through it", dtype)

    present = set(PACKAGES) - set(missing())
    found = [optimizer(key) for key in _OPTIMIZERS if key[1] in present]
    if dtype == "float32":
        torch_keys = [key for key in PARAMETRIZATIONS if key[1] == "torch" and "torch" in present]
        found += [parametrization(key) for key in torch_keys]
    return [case for case in found if methods is None or case.method in methods]
