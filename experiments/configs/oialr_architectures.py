"""Do singular bases stabilize in other networks than the paper's, and does OIALR
(arXiv:2401.08505) work there? A ViT, an MLP-Mixer, a ConvNeXt and an LSTM over rows, small ones,
CIFAR-10, three seeds.

  python scripts/prepare_data.py --dataset=cifar10
  python experiments/run.py --config=experiments/configs/oialr_architectures.py

Each is trained densely with a cosine and with a constant learning rate, and by OIALR to a quarter
of each kernel's rank with the cosine. Stability is that of states 39 steps apart.

Result, dense with the cosine, dense with the constant rate, OIALR: ConvNeXt 44.7, 45.7, 41.3 %,
LSTM 46.1, 48.2, 39.4 %, Mixer 48.9, 50.5, 39.5 %, ViT 46.1, 46.2, 37.9 %. Bases come to rest with
the schedule; at a constant rate they go on turning, in the ConvNeXt and the LSTM by less and less
(docs/oialr.md). Time: 37 minutes of one core.
"""

from experiments.configs import oialr_cifar10_minivit_small

EPOCH = 390
VIT = {
    "name": "vit",
    "patch": 8,
    "width": 64,
    "depth": 2,
    "heads": 4,
    "hidden": 256,
    "qkv_bias": False,
    "dropout": 0.0,
}
MIXER = {
    "name": "mixer",
    "patch": 8,
    "width": 64,
    "depth": 2,
    "token_hidden": 64,
    "hidden": 256,
    "dropout": 0.0,
    "drop_path": 0.0,
}
CONVNEXT = {
    "name": "convnext",
    "channels": (24, 48),
    "depths": (1, 1),
    "patch": 4,
    "layer_scale": 0.1,
    "drop_path": 0.0,
}
LSTM = {"name": "row_lstm", "width": 128, "depth": 1, "dropout": 0.0}
KERNELS = {
    "ViT": (VIT, r"block_\d+/.*kernel"),
    "Mixer": (MIXER, r"block_\d+/.*kernel"),
    # Not the depthwise convolutions.
    "ConvNeXt": (CONVNEXT, r"(block_\d+/mlp_(in|out)|down_\d)/kernel"),
    "LSTM": (LSTM, r"layer_\d/cell/dense_(i|h)/kernel"),
}


def base():
    """The runs that these questions share: two epochs of CIFAR-10, three seeds."""
    c = oialr_cifar10_minivit_small.get_config()
    c.steps = 2 * EPOCH
    c.fork_at = 0
    c.log_every = 39
    c.eval_every = EPOCH
    c.checkpoint_every = EPOCH
    c.checkpoints_kept = 1
    c.label_smoothing = 0.0
    c.model = VIT
    c.optimizer.warmup_steps = 39
    c.oialr.update(
        {"every": 65, "rank_value": 0.25, "max_drop": 0.5, "stability_every": 39, "delay": 0.3}
    )
    return c


def get_config():
    c = base()
    c.arms = {}
    for name, (model, pattern) in KERNELS.items():
        own = {"model": model, "oialr": {"rules": ((pattern, "low_rank"), (".*", "dense"))}}
        dense = own | {"oialr": own["oialr"] | {"face": "none"}}
        c.arms[f"{name}, cosine"] = dense
        c.arms[f"{name}, constant"] = dense | {"optimizer": {"schedule": "constant"}}
        c.arms[f"{name}, OIALR"] = own
    return c
