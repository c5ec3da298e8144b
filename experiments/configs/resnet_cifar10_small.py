"""`resnet18_cifar10` for two cores: three stages of one block, 16 to 64 channels.

  python scripts/prepare_data.py --dataset=cifar10
  python experiments/run.py --config=experiments/configs/resnet_cifar10_small.py

One epoch with half a cosine, all with the same learning rate.

Time: 10 minutes on one core; steps of all arms take as long, to the noise of a busy machine (.33 to
.40 s).
Result (seed 0, one epoch), test accuracy: polar 55.6 %, POGO 53.3 %, landing 52.5 %, no constraint
52.6 %.
"""

from experiments.configs import resnet18_cifar10


def get_config():
    c = resnet18_cifar10.get_config()
    epoch = resnet18_cifar10.EPOCH
    c.steps = epoch
    c.log_every = 30
    c.eval_every = 130
    c.checkpoint_every = epoch
    c.model.channels = (16, 32, 64)
    c.model.depth = 1
    c.optimizer.schedule = "cosine"
    c.optimizer.period = 0
    return c
