"""Adapters of a small network on CIFAR-10: pretrained on five classes, adapted to the other five
with 2,500 images.

  python scripts/prepare_data.py --dataset=cifar10
  python experiments/run.py --config=experiments/configs/adapters.py

Orthogonal fine-tuning (Qiu et al. 2023, arXiv:2306.07280), its butterfly (Liu et al. 2024,
arXiv:2311.06243), Householder reflections (Yuan et al. 2024, arXiv:2405.17484), LoRA (Hu et al.
2021, arXiv:2106.09685) and LoRA-XS (Balazy et al. 2024, arXiv:2405.17604) in the kernels of 16 to
1,024 inputs, against training all of them or the new head alone. Each arm has the best of three
learning rates by validation images.

Time: 25 minutes on one core, for three seeds about twice that.
Result (seed 0): parameters trained, test accuracy, largest change of hyperspherical energy:

head alone     645   72.3 %            oft 4       2,829   77.9 %   below 1e-7
lora_xs 8      837   73.3 %   .009     oft 16     11,565   81.8 %
lora_xs 32   3,717   79.5 %   .020     boft 4      5,013   79.5 %
lora 1       2,325   77.6 %   .0006    boft 8     10,837   82.0 %
lora 4       7,365   81.7 %   .0015    hra 2       3,557   78.4 %
all        155,429   83.6 %   .005     hra 8      12,293   82.2 %

With as many numbers all adapters are about as good; those that turn all neurons together leave the
energy as it was.
"""

from ml_collections import ConfigDict

# {adapter: sizes, learning rates}
ARMS = {
    "none": ((1,), (3e-3, 1e-2, 3e-2)),
    "full": ((1,), (3e-4, 1e-3, 3e-3)),
    "lora": ((1, 4), (1e-3, 3e-3, 1e-2)),
    "lora_xs": ((8, 32), (3e-3, 1e-2, 3e-2)),
    "oft": ((4, 16), (1e-3, 3e-3, 1e-2)),
    "boft": ((4, 8), (1e-3, 3e-3, 1e-2)),
    "hra": ((2, 8), (1e-3, 3e-3, 1e-2)),
}


def get_config():
    c = ConfigDict()
    c.seeds = (0, 1, 2)
    c.data = {"name": "cifar10", "dir": "", "augment": "crop_flip"}
    c.model = {
        "name": "cnn",
        "channels": (16, 32, 64),
        "depth": 1,
        "width": 128,
        "activation": "relu",
        "kernel_init": "he_normal",
    }
    c.study = {
        "name": "adapters",
        "batch_size": 50,
        "pretraining_steps": 5000,  # 10 epochs
        "pretraining_lr": 2e-3,
        "examples": 2500,
        "steps": 500,  # 10 epochs
        "lrs": (1e-3,),
        "adapter": "none",
        "size": 1,
        "factors": 1,
        "kernels": r"(conv_[12]|dense)/kernel",
        "head": "head/.*",
    }
    c.arms = {}
    for adapter, (sizes, lrs) in ARMS.items():
        for size in sizes:
            name = adapter if len(sizes) == 1 else f"{adapter}_{size}"
            study = {"adapter": adapter, "size": size, "lrs": lrs}
            c.arms[name] = {"study": study | ({"factors": 2} if adapter == "boft" else {})}
    return c
