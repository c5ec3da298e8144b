"""Orthogonal Procrustes, time to a gap of 1e-6: POGO, landing and QR retraction against pogo-torch
and geoopt.

  python experiments/run.py --config=experiments/configs/procrustes.py
  python experiments/run.py --config=experiments/configs/procrustes.py:full

Learning rates and momenta are the best of short sweeps. Time: 2 minutes of one core. Seen there
(seconds of CPU, steps): QR 1.2 s, 150; POGO with momentum along the manifold 1.7, 170; geoopt 2.7,
150; landing 5.9, 800; POGO and pogo-torch, momentum in the ambient space, do not arrive in 1500
steps (9.1 and 25.9 s).
"""

from experiments.configs import pca

SIZES = {"small": (500, 375), "full": (2000, 2000)}
# {arm: method, learning rate, momentum}
ARMS = {
    "POGO": ("pogo", 0.5, 0.3),
    "POGO, tangent momentum": ("pogo_tangent", 1.2, 0.9),
    "landing, tangent momentum": ("landing_tangent", 1.0, 0.8),
    "QR, tangent momentum": ("qr", 1.2, 0.9),
    "pogo-torch": ("pogo_torch", 0.5, 0.3),
    "geoopt": ("geoopt", 1.2, 0.9),
}


def get_config(size="small"):
    c = pca.base("procrustes", *SIZES[size], ARMS)
    c.study.condition = 1.0
    return c
