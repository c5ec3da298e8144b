"""1-Lipschitz networks on CIFAR-10: clean accuracy, and the accuracy certified at 36/255.

  python scripts/prepare_data.py --dataset=cifar10
  python experiments/run.py --config=experiments/configs/lipschitz_cifar10.py

Three stages of five 3x3 convolutions, MaxMin (Anil, Lucas, Grosse 2019, arXiv:1811.05381), no
normalization: all layers orthogonal or adjoint isometries, so that a change of an image by r
changes no margin by more than sqrt(2) r, whatever was learned. One arm a method: "cayley"
(Trockman, Kolter 2021, arXiv:2104.07167), "skew" (SOC; Singla, Feizi 2021, arXiv:2105.11417),
"block" (BCOP, AOC; Li et al. 2019, arXiv:1911.00937; Boissin et al. 2025, arXiv:2501.08930), and
"reshaped", kernels with orthonormal columns divided by 3, which do not stretch but shrink. Polar
steps keep the matrices of "block" and "reshaped", and the dense ones of all, on their Stiefel
manifolds. The loss is that of `certified_classification`.

Not yet run at full size, which is for a GPU; `lipschitz_cifar10_small` is for two cores.
"""

from ml_collections import ConfigDict

from orthojax.nn.convolution import RULES

ENDS = (r"(down_\d+|dense|head)/kernel", "orthogonal")


def get_config():
    c = ConfigDict()
    c.seed = 0
    c.steps = 39_000  # 200 epochs of 195 batches
    c.batch_size = 256
    c.eval_batch_size = 1000
    c.log_every = 195
    c.eval_every = 1950
    c.checkpoint_every = 1950
    c.checkpoints_kept = 1
    c.patience = 0
    c.label_smoothing = 0.0
    c.parallel = "jit"
    c.mesh = {"data": -1, "fsdp": 1, "tensor": 1, "rules": ((".*", "auto"),)}
    c.task = "certified_classification"
    c.data = {"name": "cifar10", "dir": "", "augment": "crop_flip"}
    c.model = {
        "name": "lipschitz_cnn",
        "channels": (64, 128, 256),
        "depth": 5,
        "width": 512,
        "convolution": "block",
    }
    c.optimizer = {
        "name": "adam",
        "lr": 1e-3,
        "schedule": "cosine",
        "period": 0,
        "warmup_steps": 0,
        "momentum": 0.9,
        "b1": 0.9,
        "b2": 0.999,
        "weight_decay": 0.0,
        "clip_norm": 0.0,
    }
    c.constraint = {"map": "polar", "rebase_every": 1, "rules": (*RULES, ENDS, (".*", "free"))}
    c.arms = {
        "cayley": {"model": {"convolution": "cayley"}},
        "skew": {"model": {"convolution": "skew"}},
        "block": {},
        "reshaped": {
            "model": {"convolution": "reshaped"},
            "constraint": {"rules": ((".*/kernel", "orthogonal"), (".*", "free"))},
        },
    }
    return c
