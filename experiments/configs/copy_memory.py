"""Copy memory: ten symbols to be repeated after a pause of 1,000 steps.

  python experiments/run.py --config=experiments/configs/copy_memory.py

Sizes of expRNN (Lezcano-Casado and Martinez-Rubio 2019, arXiv:1901.08428), but for the batch, 20
instead of 128; Henaff's start, dtriv with a change of base every 100 steps, and the optimizer of
geotorch's example. The unitary network, by Cayley, has as many real features, the LSTM as many
recurrent parameters; "vanilla" is tanh, from an orthogonal kernel, without constraint. No learning
rate is tuned.

Time: 25 minutes of CPU time on one core in all; a step takes 0.16 s orthogonal, 0.23 s unitary,
0.21 s LSTM, 0.16 s vanilla.
Result (seed 0): who remembers nothing has a loss of 10 ln 8 / 1020 = 0.0204. The orthogonal network
is below it after 240 steps, the unitary one after 220; test losses after 2,000 are 0.0003 and
0.0002, orthogonality errors below 2e-6. LSTM and vanilla stay at 0.0204 and 0.0210.
"""

from ml_collections import ConfigDict


def get_config():
    c = ConfigDict()
    c.seed = 0
    c.steps = 2000
    c.batch_size = 20
    c.eval_batch_size = 128
    c.log_every = 20
    c.eval_every = 500
    c.checkpoint_every = 500
    c.checkpoints_kept = 2
    c.patience = 0
    c.label_smoothing = 0.0
    c.parallel = "jit"
    c.mesh = {"data": -1, "fsdp": 1, "tensor": 1, "rules": ((".*", "auto"),)}
    c.data = {"name": "copying", "dir": "", "augment": "none", "length": 1000, "symbols": 10}
    c.model = {"name": "token_rnn", "cell": "orthogonal", "width": 190, "start": "henaff"}
    c.optimizer = {
        "name": "adam",
        "lr": 1e-3,
        "schedule": "constant",
        "period": 0,
        "warmup_steps": 0,
        "momentum": 0.9,
        "b1": 0.9,
        "b2": 0.95,
        "weight_decay": 0.0,
        "clip_norm": 0.0,
    }
    c.constraint = {
        "map": "exponential",
        "rebase_every": 100,
        "lr_factor": 0.2,
        "rules": (("layer/cell/kernel", "orthogonal"), (".*", "free")),
    }
    free = {"constraint": {"map": "none"}}
    c.arms = {
        "orthogonal": {},
        "unitary": {
            "model": {"cell": "unitary", "width": 95},  # as many real features
            "constraint": {"map": "unitary"},
        },
        "lstm": {"model": {"cell": "lstm", "width": 95}} | free,  # as many parameters
        "vanilla": {"model": {"cell": "vanilla"}} | free,
    }
    return c
