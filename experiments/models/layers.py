"""Choices that the models share, by name."""

import jax
from flax import nnx

ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jax.numpy.tanh, "gelu": jax.nn.gelu}

KERNEL_INITS = {
    "lecun_normal": nnx.initializers.lecun_normal(),
    "he_normal": nnx.initializers.he_normal(),
    # Semi-orthogonal in the matrix view of a kernel: all axes but the last are rows.
    "orthogonal": nnx.initializers.orthogonal(),
}
