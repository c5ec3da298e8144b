"""Density of two-dimensional toys: orthogonal Sylvester flows against planar flows.

  python experiments/run.py --config=experiments/configs/flows_toys.py

van den Berg et al. 2018, arXiv:1803.05649; Rezende, Mohamed 2015, arXiv:1505.05770.

Time: 14 minutes on one core.
Result, held-out nats above those of the true density, means of 3 seeds with deviations:

flow                        parameters  moons        rings        spirals      checkerboard
Sylvester, kept orthogonal  416         .005 ± .001  .415 ± .012  .171 ± .075  .211 ± .029
Sylvester, Householder      416         .005 ± .001  .445 ± .043  .192 ± .067  .260 ± .006
planar                      272         .011 ± .005  .620 ± .051  .408 ± .083  .318 ± .053
planar, twice the layers    544         .004 ± .000  .304 ± .077  .088 ± .053  .218 ± .032

A Sylvester layer is better than a planar one; in the plane, where it has two hidden units at most,
twice as many planar layers are better still on rings and spirals.
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
