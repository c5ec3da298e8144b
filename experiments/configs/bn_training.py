"""Batch normalization without gradient explosion (Meterez, Joudaki, Orabona, Immer, Rätsch,
Daneshmand 2024, arXiv:2310.02012), Fig. 4: orthogonal networks with batch normalization, trained.

  python experiments/run.py --config=experiments/configs/bn_training.py
  python scripts/prepare_data.py --dataset=mnist,cifar10
  python experiments/run.py --config=experiments/configs/bn_training.py:mnist
  python experiments/run.py --config=experiments/configs/bn_training.py:full

The first takes digits that ship in a package, depth 100. "mnist" is ten epochs at depths 100 and
1,000, "full" the thousand epochs of CIFAR-10 of the paper, for a GPU.

Plain SGD at 1e-3, width and batch 100, gains (l + 1)^-0.4 before the activation. Tested twice: with
running statistics, and with population statistics, those of 10,000 training images layer by layer.
"""

from ml_collections import ConfigDict

# {size: data, depths, steps, evaluations}
SIZES = {
    "small": ("mnist_5k", (20, 100), 800, 4),
    "mnist": ("mnist", (100, 1000), 6000, 10),
    "full": ("cifar10", (100, 500, 1000), 500_000, 100),
}


def get_config(size="small"):
    data, depths, steps, evaluations = SIZES[size]
    c = base(data, steps, evaluations)
    c.against = "model.depth"
    c.arms = {
        f"{activation}, {depth}": {"model": {"activation": activation, "depth": depth}}
        for activation in ("identity", "sin", "tanh")
        for depth in depths
    }
    return c


def base(data, steps, evaluations):
    """One of these networks, by default tanh of depth 100."""
    c = ConfigDict()
    c.seed = 0
    c.steps = steps
    c.batch_size = 100
    c.eval_batch_size = 1000
    c.log_every = max(1, steps // (4 * evaluations))
    c.eval_every = max(1, steps // evaluations)
    c.checkpoint_every = max(1, steps // evaluations)
    c.checkpoints_kept = 1
    c.patience = 0
    c.label_smoothing = 0.0
    c.parallel = "jit"
    c.mesh = {"data": -1, "fsdp": 1, "tensor": 1, "rules": ((".*", "auto"),)}
    c.population = 10_000
    c.against = ""
    c.data = {"name": data, "dir": "", "augment": "none"}
    c.model = {
        "name": "deep_mlp",
        "width": 100,
        "depth": 100,
        "activation": "tanh",
        "norm": "batch",
        "bias": True,
        "gain": 1.0,
        "gain_exponent": 0.4,
        "shaping": "none",
        "kernel_init": "orthogonal",
        "ends_init": "orthogonal",
    }
    c.optimizer = {
        "name": "sgd",
        "lr": 1e-3,
        "schedule": "constant",
        "period": 0,
        "warmup_steps": 0,
        "momentum": 0.9,
        "b1": 0.9,
        "b2": 0.999,
        "weight_decay": 0.0,
        "clip_norm": 0.0,
    }
    c.constraint = {"map": "none", "rebase_every": 0, "rules": ((".*", "free"),)}
    c.arms = {}
    return c
