"""Rates of explosion of batch-normalized tanh and sin networks with one gain in all layers.

  python scripts/prepare_data.py --dataset=cifar10
  python experiments/run.py --config=experiments/configs/bn_rate.py

Appendix E of arXiv:2310.02012: how fast log |grad W_l| grows on its way back, a layer, against the
gain alpha of x -> activation(alpha BN(x W)), on which the choice of gains (l + 1)^-k rests. Depth
300, the mean from layer 120 to 290; otherwise as bn_shaping.
"""

from experiments.configs import bn_shaping


def get_config():
    c = bn_shaping.get_config()
    c.model.depth = 300
    c.study.along = "model.gain"
    c.study.at = (0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
    c.study.measure = "rate"
    c.arms = {activation: {"model": {"activation": activation}} for activation in ("tanh", "sin")}
    return c
