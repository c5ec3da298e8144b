"""Do singular bases stabilize with other activations, and does OIALR (arXiv:2401.08505) work with
them? An MLP of four hidden layers on CIFAR-10, six activations, three seeds.

  python scripts/prepare_data.py --dataset=cifar10
  python experiments/run.py --config=experiments/configs/oialr_activations.py

Result, dense and OIALR: selu 52.7, 47.2 %, gelu 50.8, 45.3 %, relu 50.1, 44.8 %, tanh 46.0, 43.0 %,
identity 41.1, 38.9 %, sin 37.3, 32.8 %; bases come to rest alike. Time: 15 minutes of one core.
"""

from experiments.configs import oialr_architectures

ACTIVATIONS = ("relu", "gelu", "tanh", "selu", "sin", "identity")


def get_config():
    c = oialr_architectures.base()
    c.model = {
        "name": "mlp",
        "width": 256,
        "depth": 4,
        "activation": "relu",
        "kernel_init": "he_normal",
    }
    c.oialr.rules = ((r"(embed|hidden_\d+)/kernel", "low_rank"), (".*", "dense"))
    c.arms = {}
    for name in ACTIVATIONS:
        # Gains for the variance to stay: of relu 2, of the others near 1.
        init = "he_normal" if name in ("relu", "gelu") else "lecun_normal"
        own = {"model": {"activation": name, "kernel_init": init}}
        c.arms[f"{name}, dense"] = own | {"oialr": {"face": "none"}}
        c.arms[f"{name}, OIALR"] = own
    return c
