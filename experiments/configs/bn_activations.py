"""Gradients of batch-normalized networks with activations that no gain makes linear, for contrast.

  python scripts/prepare_data.py --dataset=cifar10
  python experiments/run.py --config=experiments/configs/bn_activations.py

As bn_shaping without gains. The mean field of ReLU with batch normalization has the slope
log(pi / (pi - 1)) / 2 = .192 a layer (Yang et al. 2019, arXiv:1902.08129).

Time: 3.5 min on two busy cores.
Result, log |grad W_1| at depth 200, and the slope a layer from 100 on: identity .44, 0; selu 7.8,
.038; tanh 16.6, .085; sin 26.4, .134; gelu 33.2, .175; relu 37.2, .190.
"""

from experiments.configs import bn_shaping


def get_config():
    c = bn_shaping.get_config()
    c.study.at = (5, 10, 20, 50, 100, 200)
    activations = ("identity", "tanh", "sin", "relu", "gelu", "selu")
    c.arms = {activation: {"model": {"activation": activation}} for activation in activations}
    return c
