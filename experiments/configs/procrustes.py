"""Orthogonal Procrustes, time to a gap of 1e-6: POGO, landing and QR retraction against pogo-torch
and geoopt.

  python experiments/run.py --config=experiments/configs/procrustes.py
  python experiments/run.py --config=experiments/configs/procrustes.py:full

PLACEHOLDER
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
