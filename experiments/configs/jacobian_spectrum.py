"""Jacobians of 200 layers at initialization: folds, persistent subspace orthogonality, Kaiming.

  python experiments/run.py --config=experiments/configs/jacobian_spectrum.py

The layers of Massucco, Murari, Schoenlieb 2025, arXiv:2508.02882, as `orthojax.isometric` and
`orthojax.persistent` derive them; no data.

Time: 45 s on two busy cores, most of it compilation.
Result after 200 layers, width 64, share of singular values that are 1, and mean cosine of the
outputs: fold 100 %, 1.000; 4 folds a layer 100 %, .96; shared fold 100 %, .64; projection 50 %,
.00; block 38 %, -.02; looks linear 50 %, -.02; shared orthogonal 52 %, .33; Kaiming and independent
orthogonal kernels none, 1.000. So an orthogonal Jacobian alone does not keep inputs apart. Unscaled
residual Kaiming blocks have singular values from 1e11 to 1e30.
"""

from ml_collections import ConfigDict


def get_config():
    c = ConfigDict()
    c.seeds = tuple(range(5))
    c.study = {
        "name": "jacobian",
        "layer": "fold",
        "width": 64,
        "depth": 200,
        "k": 32,
        "folds": 64,
        "scale": 1.0,
    }
    layers = {
        "fold": {"layer": "fold"},
        "fold, 4 a layer": {"layer": "fold", "folds": 4},
        "fold, shared": {"layer": "fold_shared"},
        "shared orthogonal": {"layer": "shared"},
        "projection": {"layer": "projection"},
        "block": {"layer": "block", "k": 40},
        "looks linear": {"layer": "looks_linear"},
        "independent": {"layer": "independent", "scale": 2**0.5},
        "Kaiming": {"layer": "kaiming"},
        "Kaiming, residual": {"layer": "kaiming_residual"},
    }
    c.arms = {name: {"study": overrides} for name, overrides in layers.items()}
    return c
