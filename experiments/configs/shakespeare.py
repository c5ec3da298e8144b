"""Characters of Shakespeare by a decoder with orthogonal query, key, value and output kernels, and
with attention of bounded logits (`orthojax.nn.BoundedAttention`), against the unconstrained one.

  python scripts/prepare_data.py --dataset=tinyshakespeare
  python experiments/run.py --config=experiments/configs/shakespeare.py

Size and batch are those of nanoGPT for a laptop (github.com/karpathy/nanoGPT, README), with half as
many steps; there 1.88 nats a character on the last tenth of the text, of which here the first half
is for validation and the second for testing.

Time: 8 minutes on one core.
Result (seed 0, 1,000 steps, the learning rate of the free arm for all), nats a character of the
test and, in brackets, the validation text: bounded logits 1.905 (1.845), orthogonal 1.930 (1.886),
free 1.950 (1.908), query-key norm 1.955 (1.904).
"""

from ml_collections import ConfigDict

from orthojax import MatrixAxes

EACH = MatrixAxes(0, 2)  # One matrix a head.
# The kernels of each block as one matrix, or those of heads with one each.
WHOLE = ((r"block_\d+/attention/(query|key|value|out)/kernel", "orthogonal"), (".*", "free"))
HEADS = (
    (r"block_\d+/attention/(query|key|value)/kernel", EACH),
    (r"block_\d+/attention/out/kernel", "orthogonal"),
    (".*", "free"),
)


def get_config():
    c = ConfigDict()
    c.seed = 0
    c.seeds = (0,)
    c.steps = 1000
    c.batch_size = 12
    c.eval_batch_size = 67  # A thirteenth of the 871 windows of each of the two other splits.
    c.log_every = 20
    c.eval_every = 500
    c.checkpoint_every = 1000
    c.checkpoints_kept = 1
    c.patience = 0
    c.label_smoothing = 0.0
    c.parallel = "jit"
    c.mesh = {"data": -1, "fsdp": 1, "tensor": 1, "rules": ((".*", "auto"),)}
    c.data = {"name": "tinyshakespeare", "dir": "", "augment": "none", "length": 64}
    c.model = {
        "name": "char_transformer",
        "width": 128,
        "depth": 4,
        "heads": 4,
        "hidden": 512,
        "attention": "dot",
        "dropout": 0.0,
    }
    c.optimizer = {
        "name": "adamw",
        "lr": 4e-3,
        "schedule": "cosine",
        "period": 0,
        "warmup_steps": 100,
        "momentum": 0.9,
        "b1": 0.9,
        "b2": 0.99,
        "weight_decay": 0.1,
        "clip_norm": 1.0,
    }
    c.constraint = {"map": "none", "rebase_every": 100, "rules": WHOLE}
    bounded = {"model": {"attention": "bounded"}, "constraint": {"map": "cayley", "rules": HEADS}}
    c.arms = {
        "free": {},
        "query-key norm": {"model": {"attention": "normalized"}},
        "orthogonal": {"constraint": {"map": "cayley"}},
        "bounded": bounded,
    }
    return c
