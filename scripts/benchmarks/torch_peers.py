"""Group "maps" by PyTorch and its packages, and what they share. Needs the extra `bench`."""

import importlib.metadata
import importlib.util
import math
import os

import jax
import numpy as np

from benchmarks.inputs import problem
from benchmarks.steps import gradient
from benchmarks.timing import Case, Program, Skipped

PACKAGES = ("torch", "geotorch", "geoopt", "pogo", "orthogonium")
# Products n x n that a value and gradient takes, to know beforehand what would take minutes.
_PRODUCTS = {"exponential": 140, "householder": 130, "polar": 80}


def missing() -> list[str]:
    """Which of `PACKAGES` are not installed."""
    return [name for name in PACKAGES if importlib.util.find_spec(name) is None]


def torch_module():
    """PyTorch, with the threads that this process may use and no TensorFloat-32."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.set_float32_matmul_precision("highest")
    return torch


def device() -> str:
    """ "cuda" where there is one and JAX computes on it too, or "cpu"."""
    is_cuda = jax.default_backend() == "gpu" and torch_module().cuda.is_available()
    return "cuda" if is_cuda else "cpu"


def program(call, measures=dict):
    """`call`, until its result is there."""
    if device() == "cpu":
        return Program(call, measures)

    def run():
        call()
        torch_module().cuda.synchronize()

    return Program(run, measures)


def tensor(x, dtype="float32"):
    """An array on `device()`."""
    torch = torch_module()
    return torch.tensor(np.asarray(x), dtype=getattr(torch, dtype), device=device())


def as_numpy(x):
    """A tensor as float64."""
    return x.detach().double().cpu().numpy()


def product(shape: tuple[int, ...]) -> Case:
    """The unit of time of PyTorch."""

    def make():
        x, y = tensor(gradient(shape)), tensor(gradient((*shape[:-2], shape[-1], shape[-1])))
        out = x @ y
        return program(lambda: torch_module().matmul(x, y, out=out))

    flops = 2 * math.prod(shape) * shape[-1]
    return Case("unit", "product", "torch", shape, make, unit="torch", facts={"flops": flops})


def _holder(shape):
    """A module with an identity [*shape] as its `weight`."""
    torch = torch_module()
    module = torch.nn.Module()
    eye = np.broadcast_to(np.eye(*shape[-2:]), shape)
    module.weight = torch.nn.Parameter(tensor(eye))
    return module


def _by_torch(map_name):
    def attach(module):
        torch = torch_module()
        is_householder = map_name == "householder"
        torch.nn.utils.parametrizations.orthogonal(
            module, orthogonal_map=map_name, use_trivialization=not is_householder
        )
        return module.parametrizations.weight[0]

    return attach


def _by_geotorch(triv):
    def attach(module):
        import geotorch

        geotorch.orthogonal(module, "weight", triv=triv)
        return module.parametrizations.weight[0]

    return attach


def _by_orthogonium(name):
    def attach(module):
        from orthogonium import reparametrizers

        own = getattr(reparametrizers, name)(module.weight.shape)
        torch_module().nn.utils.parametrize.register_parametrization(module, "weight", own)
        return own

    return attach


# {(method, implementation, variant): module -> its parametrization, registered}
PARAMETRIZATIONS = {
    ("exponential", "torch", "parametrization"): _by_torch("matrix_exp"),
    ("cayley", "torch", "parametrization"): _by_torch("cayley"),
    ("householder", "torch", "parametrization"): _by_torch("householder"),
    ("exponential", "geotorch", "orthogonal"): _by_geotorch("expm"),
    ("cayley", "geotorch", "orthogonal"): _by_geotorch("cayley"),
    ("qr", "orthogonium", "QR"): _by_orthogonium("BatchedQROrthogonalization"),
    ("polar", "orthogonium", "Bjorck, 12 steps"): _by_orthogonium("BatchedBjorckOrthogonalization"),
}


def attached(key, shape, theta):
    """A module whose weight is the map of `theta`, around the identity."""
    torch, module = torch_module(), _holder(shape)
    own = PARAMETRIZATIONS[key](module)
    with torch.no_grad():
        base = getattr(own, "base", None)
        if base is not None:
            base.copy_(torch.eye(base.shape[-1], device=base.device).expand_as(base))
        module.parametrizations.weight.original.copy_(tensor(theta))
    return module.to(device())


def _seconds(method, shape):
    """Of one call, roughly: n x n even where the matrix is tall."""
    n = shape[-2]
    columns = shape[-1] if method in ("householder", "qr", "polar") else n
    flops = 2 * math.prod(shape[:-2]) * n * columns**2 * _PRODUCTS.get(method, 10)
    return flops / (2e13 if device() == "cuda" else 1e11)


def require_time(method: str, shape: tuple[int, ...], most: float) -> None:
    """Raises `Skipped` where a call would take more seconds than `most`."""
    seconds = _seconds(method, shape)
    if seconds > most:
        raise Skipped(f"about {seconds:.0f} s a call")


def maps(shape: tuple[int, ...], methods: tuple[str, ...], most_seconds: float) -> list[Case]:
    """Group "maps": the parametrizations, and `torch.matrix_exp` alone."""

    def lower(method, x):
        return np.tril(x) if method in ("exponential", "cayley") else x

    def parametrization(key):
        method = key[0]

        def make():
            require_time(method, shape, most_seconds)
            at = problem(method, shape)
            module = attached(key, shape, lower(method, at.theta))
            original, g = module.parametrizations.weight.original, tensor(at.cotangent)
            held = []

            def call():
                original.grad = None
                w = module.weight
                w.backward(g)
                held[:] = w, original.grad

            measures = lambda: at.measures(*map(as_numpy, held), lower(method, at.direction))
            return program(call, measures)

        return Case("maps", method, key[1], shape, make, key[2])

    def matrix_exp():
        require_time("exponential", shape, most_seconds)
        at = problem("exponential", shape)
        a, g = tensor(at.theta).requires_grad_(), tensor(at.cotangent)
        held = []

        def call():
            a.grad = None
            w = torch_module().matrix_exp(a)
            w.backward(g)
            held[:] = w, a.grad

        return program(call, lambda: at.measures(*map(as_numpy, held)))

    present = set(PACKAGES) - set(missing())
    found = [
        parametrization(key) for key in PARAMETRIZATIONS if key[0] in methods and key[1] in present
    ]
    if shape[-1] == shape[-2] and "exponential" in methods and "torch" in present:
        found.append(Case("maps", "exponential", "torch", shape, matrix_exp, "matrix_exp"))
    return found


def matrix_exp(a: np.ndarray) -> np.ndarray:
    """`torch.matrix_exp` in float32."""
    return as_numpy(torch_module().matrix_exp(tensor(a)))


def version(name: str) -> str:
    """Of an installed package."""
    distribution = {"pogo": "pogo-torch"}.get(name, name)
    return importlib.metadata.version(distribution)
