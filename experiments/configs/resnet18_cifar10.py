"""ResNet-18 with orthogonal convolution kernels on CIFAR-10, after Ablin, Vary, Gao, Absil 2023,
arXiv:2303.16510.

  python scripts/prepare_data.py --dataset=cifar10
  python experiments/run.py --config=experiments/configs/resnet18_cifar10.py

150 epochs, momentum SGD at 0.1, a tenth of that after 50 and 100; every convolution kernel, as a
matrix [k l in, out], on its Stiefel manifold, batch normalization and the head free. The model is
an ordinary one. Published by the authors of landing, medians of 5 runs: QR retraction 92.96 % at
1.64 times the time of an epoch without constraint, landing 92.13 % at 1.12 times.

Not yet run at full size, which is for a GPU; `resnet_cifar10_small` is for two cores.
"""

from ml_collections import ConfigDict

EPOCH = 390  # batches


def get_config():
    c = ConfigDict()
    c.seed = 0
    c.steps = 150 * EPOCH
    c.batch_size = 128
    c.eval_batch_size = 1000
    c.log_every = EPOCH
    c.eval_every = EPOCH
    c.checkpoint_every = 5 * EPOCH
    c.checkpoints_kept = 1
    c.patience = 0
    c.label_smoothing = 0.0
    c.parallel = "jit"
    c.mesh = {"data": -1, "fsdp": 1, "tensor": 1, "rules": ((".*", "auto"),)}
    c.data = {"name": "cifar10", "dir": "", "augment": "crop_flip"}
    c.model = {"name": "resnet", "channels": (64, 128, 256, 512), "depth": 2}
    c.optimizer = {
        "name": "momentum",
        "lr": 0.1,
        "schedule": "tenth_decay",
        "period": 50 * EPOCH,
        "warmup_steps": 0,
        "momentum": 0.9,
        "b1": 0.9,
        "b2": 0.999,
        "weight_decay": 5e-4,
        "clip_norm": 0.0,
    }
    c.constraint = {
        "map": "polar",
        "rebase_every": 1,
        "rules": ((r"(stem|.*/(conv_\d|shortcut))/kernel", "orthogonal"), (".*", "free")),
    }
    c.arms = {
        "no constraint": {"constraint": {"map": "none"}},
        "polar": {},
        "POGO": {"constraint": {"map": "pogo"}},
        "landing": {"constraint": {"map": "landing"}},
    }
    return c
