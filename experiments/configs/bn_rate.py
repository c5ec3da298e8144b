"""Rates of explosion of batch-normalized tanh and sin networks with one gain in all layers.

  python scripts/prepare_data.py --dataset=cifar10
  python experiments/run.py --config=experiments/configs/bn_rate.py

Appendix E of arXiv:2310.02012: how fast log |grad W_l| grows on its way back, a layer, against the
gain alpha of x -> activation(alpha BN(x W)), on which the choice of gains (l + 1)^-k rests. Depth
300, the mean from layer 120 to 290; otherwise as bn_shaping.

Time: 105 s of CPU.
Result, means of 10 seeds (deviations below .0012), and local exponents, to the next smaller gain:

  gain       1     .8     .6     .5     .4     .3     .2
  tanh   .0864  .0554  .0300  .0193  .0109  .0047  .0011
            2.0    2.1    2.4    2.6    2.9    3.5
  sin    .1345  .0635  .0231  .0123  .0055  .0018  .0003
            3.4    3.5    3.5    3.6    3.9    4.7

Rates that fall as alpha^q have a finite sum over layers with gains (l + 1)^-k if k q > 1: with k =
.4 that needs q > 2.5, which sin has and tanh from a gain of .5 on.
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
