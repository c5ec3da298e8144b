"""`lipschitz_cifar10` for two cores: three stages of two convolutions, 16 to 64 channels.

  python scripts/prepare_data.py --dataset=cifar10
  python experiments/run.py --config=experiments/configs/lipschitz_cifar10_small.py

Two epochs for each method. Learning rates are the best of 3e-3 and 1e-2 (of 1e-3 too for blocks)
by the accuracy in 100 to 150 training steps of seed 0; "skew" has that of blocks.

Time: 15 minutes of CPU time on one core, most of it for "skew".
Result (seed 0, 2 epochs), test accuracy, certified accuracy at 36/255, and operations of a step:

skew        52.4 %   21.2 %   25.4 GFLOP
cayley      47.8 %   16.9 %
block       47.2 %   14.4 %    3.4 GFLOP
reshaped    39.0 %    8.5 %    3.3 GFLOP
"""

from experiments.configs import lipschitz_cifar10


def get_config():
    c = lipschitz_cifar10.get_config()
    c.steps = 780  # 2 epochs of 390 batches
    c.batch_size = 128
    c.log_every = 30
    c.eval_every = 390
    c.checkpoint_every = 390
    c.model.channels = (16, 32, 64)
    c.model.depth = 2
    c.model.width = 128
    c.optimizer.lr = 3e-3
    for arm in ("cayley", "reshaped"):
        c.arms[arm].optimizer = {"lr": 1e-2}
    return c
