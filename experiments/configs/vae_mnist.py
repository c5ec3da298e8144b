"""Variational autoencoder on MNIST: a diagonal posterior, Householder and orthogonal Sylvester
flows.

  python scripts/prepare_data.py --dataset=mnist
  python experiments/run.py --config=experiments/configs/vae_mnist.py

Tomczak, Welling 2016, arXiv:1611.09630; van den Berg et al. 2018, arXiv:1803.05649. Pixels are
binarized anew in each step and in each test ("dynamically"); the loss is the negative of the lower
bound (ELBO) of the log-likelihood of an image, in nats, by one sample.

Time: 6 minutes on one core.
Result (seed 0, 20 epochs), nats of the test images: diagonal posterior 96.5, with four Householder
layers 96.7, with four orthogonal Sylvester layers of four reflections 93.5.
"""

from ml_collections import ConfigDict


def get_config():
    c = ConfigDict()
    c.seed = 0
    c.steps = 9360  # 20 epochs of 468 batches
    c.batch_size = 128
    c.eval_batch_size = 1000
    c.log_every = 52
    c.eval_every = 936
    c.checkpoint_every = 1872
    c.checkpoints_kept = 1
    c.patience = 0
    c.label_smoothing = 0.0
    c.parallel = "jit"
    c.task = "likelihood"
    c.mesh = {"data": -1, "fsdp": 1, "tensor": 1, "rules": ((".*", "auto"),)}
    c.data = {"name": "mnist", "dir": "", "augment": "none"}
    c.model = {
        "name": "vae",
        "width": 300,
        "latents": 20,
        "activation": "gelu",
        "posterior": "diagonal",
        "layers": 4,
        "reflections": 4,
    }
    c.optimizer = {
        "name": "adam",
        "lr": 2e-3,
        "schedule": "cosine",
        "period": 0,
        "warmup_steps": 0,
        "momentum": 0.9,
        "b1": 0.9,
        "b2": 0.999,
        "weight_decay": 0.0,
        "clip_norm": 0.0,
    }
    c.constraint = {"map": "none", "rebase_every": 0, "rules": ((".*", "free"),)}
    c.arms = {
        "diagonal": {},
        "Householder": {"model": {"posterior": "householder"}},
        "Sylvester": {"model": {"posterior": "sylvester"}},
    }
    return c
