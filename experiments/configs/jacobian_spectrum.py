"""Jacobians of 200 layers at initialization: folds, persistent subspace orthogonality, Kaiming.

  python experiments/run.py --config=experiments/configs/jacobian_spectrum.py

The layers of Massucco, Murari, Schoenlieb 2025, arXiv:2508.02882, as `orthojax.isometric` and
`orthojax.persistent` derive them; no data.

Time: 49 s of two cores' CPU, most of it compilation.
Result after 200 layers, width 64, share of singular values that are 1, and mean cosine of the
outputs: fold and isometric dense 100 %, 1.000; 4 folds a layer 100 %, .96; shared fold 100 %, .64;
projection 50 %, .00, residual or feedforward; block 38 %, -.02; looks linear 50 %, -.02; shared
orthogonal 52 %, .33, residual 48 %, .30; Kaiming and independent orthogonal kernels none, 1.000. So
an orthogonal Jacobian alone does not keep inputs apart. Residual blocks of k = 40, scaled by
200^(-1/2), 38 %, .17, the others from .25 to 4.0; unscaled residual Kaiming ones have singular
values from 1e11 to 1e30.
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
        "isometric dense": {"layer": "isometric_dense"},
        "shared orthogonal": {"layer": "shared"},
        "shared orthogonal, residual": {"layer": "shared_residual"},
        "projection": {"layer": "projection"},
        "projection, feedforward": {"layer": "projection_feedforward"},
        "block": {"layer": "block", "k": 40},
        "block, residual": {"layer": "block_residual", "k": 40},
        "looks linear": {"layer": "looks_linear"},
        "independent": {"layer": "independent", "scale": 2**0.5},
        "Kaiming": {"layer": "kaiming"},
        "Kaiming, residual": {"layer": "kaiming_residual"},
    }
    c.arms = {name: {"study": overrides} for name, overrides in layers.items()}
    return c
