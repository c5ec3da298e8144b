"""Batch normalization without gradient explosion (arXiv:2310.02012), Fig. 6 and App. F: do kernels
that start orthogonal stay nearly so under SGD, although their gradients are not small?

  python scripts/prepare_data.py --dataset=cifar10
  python experiments/run.py --config=experiments/configs/bn_implicit_orthogonality.py
  python experiments/run.py --config=experiments/configs/bn_implicit_orthogonality.py:full

Draws profile.png, isometry gap of each kernel and norm of its gradient on one batch, against the
layer. The first is depth 200 for two epochs, "full" the depth 1,000 and the 300 epochs of the
paper, for a GPU.
"""

from experiments.configs import bn_training

# {size: depth, steps, measurements, activations}
SIZES = {
    "small": (200, 1000, 4, ("tanh",)),
    "full": (1000, 150_000, 6, ("sin", "tanh")),
}


def get_config(size="small"):
    depth, steps, measurements, activations = SIZES[size]
    c = bn_training.base("cifar10", steps, measurements)
    c.model.depth = depth
    c.profile = {"every": steps // measurements, "kernels": r"hidden/layers/kernel"}
    c.arms = {activation: {"model": {"activation": activation}} for activation in activations}
    return c
