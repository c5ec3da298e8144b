"""Choices that the models share, by name."""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx

from orthojax import kernel_shaping
from orthojax.nn.normalization import BatchNorm


def identity(x):
    return x


ACTIVATIONS = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "gelu": jax.nn.gelu,
    "selu": jax.nn.selu,
    "sin": jnp.sin,
    "identity": identity,
}

KERNEL_INITS = {
    "lecun_normal": nnx.initializers.lecun_normal(),
    "he_normal": nnx.initializers.he_normal(),
    "xavier_normal": nnx.initializers.variance_scaling(1.0, "fan_avg", "normal"),
    # Semi-orthogonal in the matrix view of a kernel: all axes but the last are rows.
    "orthogonal": nnx.initializers.orthogonal(),
}

# The kernels that lead into and out of the hidden layers, where a model lets one choose.
ENDS_INITS = {name: KERNEL_INITS[name] for name in ("orthogonal", "lecun_normal")}

# Factors of "xavier_normal" kernels (PyTorch's `calculate_gain`); 1 for others.
XAVIER_GAINS = {"tanh": 5 / 3, "relu": math.sqrt(2), "selu": 3 / 4}

# {name: width -> normalization or None}; the scale and the bias of "batch" are trained.
NORMS = {
    "none": lambda width: None,
    "batch": BatchNorm,
    "batch_no_mean": functools.partial(BatchNorm, use_mean=False, affine=False),
}

SHAPINGS = ("none", "tat", "dks")


@functools.cache  # It is solved for, and models of one configuration shall have one function.
def tailored(shaping, activation, depth):
    """The activation of that name, shaped for a plain network of `depth` activations.

    "tat" and "dks" with the constants of their papers, see `orthojax.kernel_shaping`. TAT of "relu"
    is a LeakyReLU; in networks so shallow that ReLU itself stays below the cosine that TAT aims at,
    it is ReLU.

    Raises:
        ValueError: there is none for this activation.
    """
    function = ACTIVATIONS[activation]
    if shaping == "none":
        return function
    if activation == "relu" and shaping == "tat":
        cosine = 0.0
        for _ in range(depth):
            cosine = kernel_shaping.leaky_relu_c_map(cosine, 0.0)
        if cosine <= 0.9:
            return lambda x: math.sqrt(2) * jax.nn.relu(x)
        return kernel_shaping.tailored_leaky_relu(depth)
    if activation == "relu":
        raise ValueError("`shaping` dks is for smooth activations, got relu; use tat, or tanh.")
    shape = {"tat": kernel_shaping.tailored, "dks": kernel_shaping.deep_kernel_shaping}[shaping]
    return shape(function, depth).apply(function)


def patch_embedding(image_shape, patch, width, rngs):
    """The convolution from images to tokens of `width`, one for each patch x patch pixels, and the
    number of tokens."""
    height, image_width, channels = image_shape
    if height % patch or image_width % patch:
        raise ValueError(
            f"`patch` must divide the images' {height} x {image_width} pixels, got {patch}."
        )
    conv = nnx.Conv(channels, width, (patch, patch), strides=patch, padding="VALID", rngs=rngs)
    return conv, (height // patch) * (image_width // patch)


def drop_path(rate, ndim, rngs):
    """Dropout of whole branches [B, ...] with `ndim` axes, for each example by itself (stochastic
    depth: Huang et al. 2016, arXiv:1603.09382); none, without random numbers, at rate 0."""
    if not rate:
        return identity
    return nnx.Dropout(rate, broadcast_dims=tuple(range(1, ndim)), rngs=rngs)


def init_for(kernel_init, activation):
    """The initializer of kernels before an activation, both by name."""
    gain = XAVIER_GAINS.get(activation, 1.0)
    if kernel_init == "xavier_normal" and gain != 1:
        return nnx.initializers.variance_scaling(gain**2, "fan_avg", "normal")
    return KERNEL_INITS[kernel_init]
