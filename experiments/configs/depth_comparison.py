"""Ways to train a plain network at any depth, side by side: test accuracy on MNIST against depth.

  python experiments/run.py --config=experiments/configs/depth_comparison.py
  python scripts/prepare_data.py --dataset=mnist
  python experiments/run.py --config=experiments/configs/depth_comparison.py:mnist

All of width 100, Adam at 1e-4; no learning rate is tuned for any of them. "Folds" have an exactly
orthogonal Jacobian; those on the manifold keep it, by `orthojax.orthogonal`, while they train.
"""

from experiments.configs import pso_depth
from orthojax import MatrixAxes

BLOCKS = ("Kaiming", "shared", "projection", "ReZero", "Fixup")

MLP = {
    "name": "deep_mlp",
    "width": 100,
    "activation": "tanh",
    "norm": "none",
    "bias": True,
    "gain": 1.0,
    "gain_exponent": 0.0,
    "shaping": "none",
    "kernel_init": "orthogonal",
    "ends_init": "orthogonal",
}
# {name: fields of `DeepMLP` that differ}
MLPS = {
    "BN, tanh, gain": {"norm": "batch", "gain_exponent": 0.4},
    "TAT, leaky ReLU": {"activation": "relu", "shaping": "tat"},
    "DKS, tanh": {"shaping": "dks"},
}

FOLDS = {"block": "fold", "folds": 10}
ON_MANIFOLD = {
    "map": "cayley",
    "rebase_every": 1,
    "rules": ((r"hidden/layers/kernel", MatrixAxes(-2, -1)), (".*", "free")),
}

SIZES = {"small": ("mnist_5k", (5, 50), 2, 310), "mnist": ("mnist", (5, 20, 50, 100, 200), 3, 936)}


def get_config(size="small"):
    data, depths, seeds, steps = SIZES[size]
    c = pso_depth.base(data, seeds, steps)
    c.against = "model.depth"
    c.population = 0
    arms = {}
    for depth in depths:
        for name in BLOCKS:
            arms[f"{name}, {depth}"] = {"model": pso_depth.model(name, depth)}
        folds = FOLDS | {"depth": depth}
        arms[f"folds, free, {depth}"] = {"model": folds}
        arms[f"folds, on the manifold, {depth}"] = {"model": folds, "constraint": ON_MANIFOLD}
        for name, fields in MLPS.items():
            arms[f"{name}, {depth}"] = {
                "model": MLP | fields | {"depth": depth},
                "population": 10_000 if "norm" in fields else 0,
            }
    c.arms = arms
    return c
