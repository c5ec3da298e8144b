"""Gradients against the exponent k of the gains (l + 1)^-k, at depths 50 and 200.

  python scripts/prepare_data.py --dataset=cifar10
  python experiments/run.py --config=experiments/configs/bn_gain_exponent.py

Appendix E of arXiv:2310.02012: the smallest k at which depths coincide. Otherwise as bn_shaping.

Time: 4 min on two busy cores.
Result, log |grad W_1|, mean over the seeds (deviations to .2 at k = 0, else below .1):

  k                 0     .1    .2    .3     .4     .5     .6     .8      1
  sin, 50        6.23   1.90   .24  -.57  -1.13  -1.60  -2.03  -2.86  -3.68
  sin, 200      26.43   5.73   .88  -.60  -1.44  -2.12  -2.74  -3.91  -5.28
  tanh, 50       3.79   1.81   .46  -.39   -.99  -1.49  -1.94  -2.79  -3.62
  tanh, 200     16.60   6.52  1.84  -.18  -1.19  -1.94  -2.58  -3.79  -5.18

Depths cross near k = .3; from .4 on the gradients of deeper networks are smaller.
"""

from experiments.configs import bn_shaping


def get_config():
    c = bn_shaping.get_config()
    c.study.along = "model.gain_exponent"
    c.study.at = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
    c.arms = {
        f"{activation}, depth {depth}": {"model": {"activation": activation, "depth": depth}}
        for activation in ("tanh", "sin")
        for depth in (50, 200)
    }
    return c
