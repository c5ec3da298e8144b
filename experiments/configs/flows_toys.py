"""Density of two-dimensional toys: orthogonal Sylvester flows against planar flows.

  python experiments/run.py --config=experiments/configs/flows_toys.py

van den Berg et al. 2018, arXiv:1803.05649; Rezende, Mohamed 2015, arXiv:1505.05770.
"""

from ml_collections import ConfigDict


def get_config():
    c = ConfigDict()
    c.seeds = (0, 1, 2)
    c.study = {
        "name": "density",
        "toys": ("moons", "rings", "spirals", "checkerboard"),
        "flow": "sylvester",
        "layers": 16,
        "reflections": 0,
        "steps": 10000,
        "batch_size": 256,
        "held_out": 10000,
    }
    c.optimizer = {"lr": 5e-3}
    c.arms = {
        "Sylvester, kept orthogonal": {},
        "Sylvester, Householder": {"study": {"reflections": 2}},
        "planar": {"study": {"flow": "planar"}},
        "planar, twice the layers": {"study": {"flow": "planar", "layers": 32}},
    }
    return c
