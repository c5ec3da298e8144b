"""Persistent subspace orthogonality (Massucco, Murari, Schoenlieb 2025, arXiv:2508.02882): test
accuracy against depth, by what deep ReLU networks without normalization start from (Fig. 1).

  python experiments/run.py --config=experiments/configs/pso_depth.py
  python scripts/prepare_data.py --dataset=mnist
  python experiments/run.py --config=experiments/configs/pso_depth.py:mnist
  python experiments/run.py --config=experiments/configs/pso_depth.py:full

The first takes digits that ship in a package; "mnist" has all depths, types and seeds for two
epochs, "full" twenty epochs, for a GPU, with the seeds of a network in one program; other images by
--config.data.name=cifar10. (On a CPU seeds are faster one after another: state of all of them does
not fit in its cache.)

Width, batch, optimizer and the exact weights of the paper are not known to us: see
`orthojax.persistent`. Type A is x <- relu(x B) A, type B x <- x + relu(x B) A.
"""

from ml_collections import ConfigDict

# {name: a block of `DeepBlocks`}
TYPE_A = {
    "Kaiming": "kaiming",
    "shared": "shared",
    "block": "block",
    "looks-linear": "looks_linear",
    "projection, feedforward": "projection_feedforward",
}
TYPE_B = {
    "Kaiming, residual": "kaiming_residual",
    "projection": "projection",
    "shared, residual": "shared_residual",
    "block, residual": "block_residual",
    "ReZero": "rezero",
    "Fixup": "fixup",
}

# {size: data, depths, blocks, seeds, steps}
SIZES = {
    "small": ("mnist_5k", (5, 50), ("Kaiming", "shared", "block", "projection"), 3, 310),
    "mnist": ("mnist", (5, 20, 50, 100, 200), (*TYPE_A, *TYPE_B), 5, 936),
    "full": ("mnist", (5, 20, 50, 100, 200), (*TYPE_A, *TYPE_B), 5, 9360),
}


def get_config(size="small"):
    data, depths, blocks, seeds, steps = SIZES[size]
    c = base(data, seeds, steps, vmap_seeds=size == "full")
    c.against = "model.depth"
    c.arms = {
        f"{name}, {depth}": {"model": model(name, depth)} for name in blocks for depth in depths
    }
    return c


def model(name, depth):
    """The fields of the model `name` of `TYPE_A` or `TYPE_B`."""
    block = (TYPE_A | TYPE_B)[name]
    halved = block.startswith(("block", "projection"))
    return {"block": block, "depth": depth, "k": 50 if halved else 0}


def base(data, seeds, steps, vmap_seeds=False):
    """Any of these networks, of width 100, trained by Adam at a constant rate of 1e-4."""
    c = ConfigDict()
    c.seed = 0
    c.seeds = tuple(range(seeds))
    c.vmap_seeds = vmap_seeds
    c.steps = steps
    c.batch_size = 128
    c.eval_batch_size = 1000
    c.log_every = max(1, steps // 10)
    c.eval_every = max(1, steps // 2)
    c.checkpoint_every = max(1, steps // 2)
    c.checkpoints_kept = 1
    c.patience = 0
    c.label_smoothing = 0.0
    c.parallel = "jit"
    c.mesh = {"data": -1, "fsdp": 1, "tensor": 1, "rules": ((".*", "auto"),)}
    c.against = ""
    c.data = {"name": data, "dir": "", "augment": "none"}
    c.model = {
        "name": "deep_blocks",
        "width": 100,
        "depth": 50,
        "block": "shared",
        "k": 0,
        "folds": 0,
        "sharing": "none",
        "ends_init": "orthogonal",
    }
    c.optimizer = {
        "name": "adam",
        "lr": 1e-4,
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
