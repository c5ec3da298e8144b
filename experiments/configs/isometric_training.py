"""Layers with an orthogonal Jacobian, in training: test accuracy against depth, by how many folds a
layer has, what layers share, and whether their kernels stay orthogonal.

  python experiments/run.py --config=experiments/configs/isometric_training.py
  python scripts/prepare_data.py --dataset=mnist
  python experiments/run.py --config=experiments/configs/isometric_training.py:mnist

The layers of Massucco, Murari, Schoenlieb 2025, arXiv:2508.02882, as `orthojax.isometric` derives
them: a fold x - 2 relu(x K + b) K' of h = 10 or 100 columns at width 100, which is all of them, and
"dense", -|x K + b| Q. Layers are independent, start from the same weights, or are one layer
throughout ("tied"). "free": Adam moves K as any other kernel, and the Jacobian is orthogonal at
first only, as in the paper; "manifold": `orthojax.orthogonal` keeps it so.

The first, five epochs: about 200 s of CPU for its 28 arms, extrapolated from ten, 6 to 15 s each.
Seen there at depth 50, on the manifold: 10 folds 86 % (87 % free); 100 folds 21 % (27 % free), tied
85 %; dense 15 %. One seed.
"""

from experiments.configs import pso_depth
from orthojax import MatrixAxes

# {name: fields of `DeepBlocks`}
LAYERS = {
    f"{folds} folds, {name}": {"block": "fold", "folds": folds, "sharing": sharing}
    for folds in (10, 100)
    for name, sharing in (("independent", "none"), ("same start", "initial"), ("tied", "tied"))
}
LAYERS["dense, independent"] = {"block": "isometric_dense"}

CONSTRAINTS = {
    "free": {"map": "none"},
    "manifold": {
        "map": "cayley",
        "rebase_every": 1,
        "rules": ((r"hidden/layers/(out_)?kernel", MatrixAxes(-2, -1)), (".*", "free")),
    },
}

# {size: data, depths, seeds, steps}
SIZES = {"small": ("mnist_5k", (5, 50), 1, 155), "mnist": ("mnist", (5, 20, 50, 100, 200), 3, 936)}


def get_config(size="small"):
    data, depths, seeds, steps = SIZES[size]
    c = pso_depth.base(data, seeds, steps)
    c.against = "model.depth"
    c.arms = {
        f"{name}, {constraint}, {depth}": {
            "model": fields | {"depth": depth},
            "constraint": CONSTRAINTS[constraint],
        }
        for name, fields in LAYERS.items()
        for constraint in CONSTRAINTS
        for depth in depths
    }
    return c
