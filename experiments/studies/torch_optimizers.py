"""The optimizers of `optimality` that run in PyTorch: `pogo` and `geoopt`, of the extra `bench`."""

import importlib.util
import os

import jax
import numpy as np

from experiments.studies import common


def _pogo(torch, w, lr, momentum):
    import pogo
    from pogo.base import SGD

    point = torch.nn.Parameter(w[None])
    return point, pogo.POGO([point], SGD(momentum=momentum), lr, rows=False)


def _geoopt(torch, w, lr, momentum):
    import geoopt

    point = geoopt.ManifoldParameter(w, manifold=geoopt.Stiefel(canonical=False))
    return point, geoopt.optim.RiemannianSGD([point], lr, momentum=momentum)


# {name: (package, its name on PyPI, maker of parameter and optimizer)}
METHODS = {
    "pogo_torch": ("pogo", "pogo-torch", _pogo),
    "geoopt": ("geoopt", "geoopt", _geoopt),
}


def require(name):
    """Raises `common.Missing` unless what `name` of `METHODS` needs is installed."""
    package, published, _ = METHODS[name]
    for module, distribution in (("torch", "torch"), (package, published)):
        if importlib.util.find_spec(module) is None:
            raise common.Missing(
                f"optimizer.name={name} needs {distribution}: pip install 'orthojax-optax[bench]'."
            )


class Descent:
    """As `optimality.Descent`, in PyTorch: on a GPU where JAX is on one too, with as many threads
    as cores that this process may use."""

    compile_seconds = 0.0

    def __init__(self, config, problem):
        import torch

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        torch.set_float32_matmul_precision("highest")
        is_gpu = jax.default_backend() == "gpu" and torch.cuda.is_available()
        self._synchronize = torch.cuda.synchronize if is_gpu else lambda: None
        own = {"dtype": getattr(torch, config.study.dtype), "device": "cuda" if is_gpu else "cpu"}
        self._torch, self._config, self._gradient = torch, config.optimizer, problem.gradient
        self._constants = tuple(torch.tensor(x, **own) for x in problem.constants)
        self._start = torch.tensor(problem.start, **own)
        self.start()

    def start(self):
        c = self._config
        make = METHODS[c.name][2]
        self._point, self._optimizer = make(self._torch, self._start.clone(), c.lr, c.momentum)

    def advance(self, steps):
        for _ in range(steps):
            with self._torch.no_grad():
                self._point.grad = self._gradient(self._constants, self._point)
            self._optimizer.step()
        self._synchronize()

    def weights(self):
        """[n, p], on the CPU."""
        w = self._point.detach().double().cpu().numpy()
        return np.reshape(w, w.shape[-2:])
