"""Gradients of batch-normalized tanh and sin networks with gains (l + 1)^-k, k = 0 and 0.4.

  python scripts/prepare_data.py --dataset=cifar10
  python experiments/run.py --config=experiments/configs/bn_shaping.py

Figure 5 of arXiv:2310.02012: as bn_explosion, but standard batch normalization and biases.

Time: about 250 s of CPU; 6 min on two busy cores.
Result, log |grad W_1|, mean over the seeds:

  depth               5     50    100    200    500   1000
  identity, k = 0   .31    .36    .39    .44    .43    .44
  sin, k = 0        .21   6.23  12.99  26.43  66.94      -
  tanh, k = 0       .04   3.79   8.08  16.60  42.02  84.44
  identity, k = .4 -.40  -1.25  -1.49  -1.70  -2.08  -2.33
  sin, k = .4      -.47  -1.13  -1.31  -1.44  -1.51  -1.72
  tanh, k = .4     -.51   -.99  -1.11  -1.19  -1.22  -1.39

Deviations are below .1, but at depth 1,000 with gains, sin .21 and tanh .11, which is no rounding:
float64 gives the same to .001. Over 40 seeds sin has -1.65 (.28). The paper has, at 1,000, -2.35,
-1.6 and -1.0; its curves without gains stop at 26.5 (sin, 200) and 42.5 (tanh, 500), where squares
of float32 overflow. Ours stop at 88, where float32 itself does.
"""

from experiments.configs import bn_explosion


def get_config():
    c = bn_explosion.get_config()
    c.model.norm = "batch"
    c.model.bias = True
    c.arms = {}
    for activation in ("identity", "sin", "tanh"):
        c.arms[activation] = {"model": {"activation": activation}}
        c.arms[f"{activation}, gains"] = {"model": {"activation": activation, "gain_exponent": 0.4}}
    return c
