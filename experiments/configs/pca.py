"""Online PCA on the Stiefel manifold, time to a gap of 1e-6: POGO, landing and QR retraction
against pogo-torch and geoopt.

  python experiments/run.py --config=experiments/configs/pca.py
  python experiments/run.py --config=experiments/configs/pca.py:published
  python experiments/run.py --config=experiments/configs/pca.py:full

"published" has the matrix of POGO's own script, sym(Q D Q), at a quarter of its size; "full" is its
size. Learning rates and momenta of the tuned arms are the best of short sweeps. pogo-torch and
geoopt take part where `pip install -e ".[bench]"` has put them.

Time: 2 minutes of one core. Seen there ("published", seconds of CPU, steps): POGO 4.2 s, 840;
pogo-torch 11.4, 830, tuned 4.7, 330; geoopt 1.4, 90; POGO with momentum along the manifold 0.9,
100; landing 1.0, 160; QR 0.8, 90.
"""

from ml_collections import ConfigDict

# {size: problem, rows, columns}
SIZES = {
    "small": ("pca", 500, 375),
    "published": ("pca_published", 500, 375),
    "full": ("pca_published", 2000, 1500),
}
AS_PUBLISHED = {"POGO": ("pogo", 0.25, 0.3), "pogo-torch": ("pogo_torch", 0.25, 0.3)}
# {problem: {arm: method, learning rate, momentum}}
TUNED = {
    "pca": {
        "POGO, tangent momentum": ("pogo_tangent", 0.35, 0.92),
        "landing, tangent momentum": ("landing_tangent", 0.5, 0.95),
        "QR, tangent momentum": ("qr", 0.3, 0.95),
        "pogo-torch, tuned": ("pogo_torch", 0.35, 0.6),
        "geoopt": ("geoopt", 0.3, 0.92),
    },
    "pca_published": {
        "POGO, tangent momentum": ("pogo_tangent", 0.25, 0.85),
        "landing, tangent momentum": ("landing_tangent", 0.5, 0.9),
        "QR, tangent momentum": ("qr", 0.25, 0.85),
        "pogo-torch, tuned": ("pogo_torch", 0.25, 0.6),
        "geoopt": ("geoopt", 0.25, 0.85),
    },
}


def base(problem, rows, columns, arms):
    """The study of `problem` with arms {name: (method, learning rate, momentum)}."""
    c = ConfigDict()
    c.seeds = (0,)
    c.study = {
        "name": "optimality",
        "problem": problem,
        "rows": rows,
        "columns": columns,
        "condition": 1000.0,
        "dtype": "float32",
        "gap": 1e-6,
        "max_steps": 1500,
        "evaluate_every": 10,
    }
    c.optimizer = {"name": "pogo", "lr": 0.1, "momentum": 0.0}
    c.arms = {
        arm: {"optimizer": {"name": name, "lr": lr, "momentum": momentum}}
        for arm, (name, lr, momentum) in arms.items()
    }
    return c


def get_config(size="small"):
    problem, rows, columns = SIZES[size]
    return base(problem, rows, columns, AS_PUBLISHED | TUNED[problem])
