"""Isometry gap of batch-normalized random rotations, layer by layer, and the law of its decay.

  python experiments/run.py --config=experiments/configs/bn_isometry.py

Figure 1 of Meterez, Joudaki, Orabona, Immer, Raetsch, Daneshmand 2023, arXiv:2310.02012; no data.

Time: 3 s, with compilation 15 s.
Result, gap after layer 1, after layer 100, and rate a layer: d = 50 2.2e-4, 4.0e-6, .0402 (law
.0385); d = 100 4.4e-4, 5.6e-5, .0207 (law .0196). The paper's figure has 1.7e-4 to 3e-6 and 3.3e-4
to 4.3e-5; the rate of its bound is .026 and .006.
"""

from ml_collections import ConfigDict


def get_config():
    c = ConfigDict()
    c.seeds = tuple(range(10))
    c.study = {
        "name": "isometry",
        "widths": (50, 100),
        "depth": 100,
        "correlation": 0.005,
        "kernel_init": "orthogonal",
    }
    c.arms = {}
    return c
