"""Perceptrons of any depth, one kernel a layer: batch-normalized, or with a tailored activation."""

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.models.layers import ENDS_INITS, NORMS, init_for, tailored
from orthojax.nn.stack import Stack
from orthojax.shaping import gains


class Gain(nnx.Variable):
    """A factor that is not trained."""


class Layer(nnx.Linear):
    """x -> activation(gain * norm(x @ kernel + bias)), where `gain` is an array []."""

    def __init__(self, inputs, outputs, gain, *, activation, norm, kernel_init, bias, rngs):
        super().__init__(inputs, outputs, use_bias=bias, kernel_init=kernel_init, rngs=rngs)
        self.norm = NORMS[norm](outputs)
        self.gain = Gain(gain)
        self.activation = activation

    def __call__(self, x):
        x = super().__call__(x)
        if self.norm is not None:
            x = self.norm(x)
        return self.activation(self.gain[...] * x)


class DeepMLP(nnx.Module):
    """`depth` layers x -> σ(α_l norm(x W_l + b_l)), l = 0 ... depth - 1, and a linear head.

    The first layer is `embed/kernel` [H * W * C, width]; the others are one `Stack`,
    `hidden/layers/kernel` [depth - 1, width, width], `bias`, and with `norm="batch"` `norm/scale`
    and `norm/bias` [depth - 1, width]; then `head/kernel` [width, num_classes]. Biases start at 0.

    With normalization these are the networks of Meterez et al. 2024 (arXiv:2310.02012); without,
    and with `shaping`, those of Martens et al. 2021 (arXiv:2110.01765) and Zhang, Botev and Martens
    2022 (arXiv:2203.08120), which first bring each image to a mean square of 1.

    Args:
        width: of all layers.
        depth: number of layers and of activations, at least 2.
        activation: σ, one of `ACTIVATIONS`.
        norm: "batch"; "batch_no_mean", which divides by the root mean square and trains nothing; or
            "none".
        bias: whether layers and head have one. (With "batch" that of a layer has no effect.)
        gain: α_0.
        gain_exponent: k of α_l = `gain` (l + 1)^-k. A gain of 1 and k = 0 leave the activations as
            they are.
        shaping: "none"; "tat" or "dks" for σ tailored to this depth; see `layers.tailored`.
        kernel_init: of the stacked kernels, one of `KERNEL_INITS`; "xavier_normal" with the gain of
            its activation.
        ends_init: of `embed` and `head`, one of `ENDS_INITS`.

    Raises:
        ValueError: `depth` is below 2, or `activation` cannot be tailored.
    """

    def __init__(
        self,
        image_shape,
        num_classes,
        *,
        width,
        depth,
        activation,
        norm,
        bias,
        gain,
        gain_exponent,
        shaping,
        kernel_init,
        ends_init,
        rngs,
    ):
        if depth < 2:
            raise ValueError(f"`depth` must be at least 2, got {depth}.")
        height, image_width, channels = image_shape
        ends = ENDS_INITS[ends_init]
        alphas = gain * gains(depth, gain_exponent)
        self.unit_inputs = shaping != "none"
        sigma = tailored(shaping, activation, depth)
        options = {"activation": sigma, "norm": norm, "bias": bias}
        self.embed = Layer(
            height * image_width * channels,
            width,
            alphas[0],
            kernel_init=ends,
            rngs=rngs,
            **options,
        )
        init = init_for(kernel_init, activation)
        self.hidden = Stack(
            lambda rngs, alpha: Layer(width, width, alpha, kernel_init=init, rngs=rngs, **options),
            depth - 1,
            alphas[1:],
            rngs=rngs,
        )
        self.head = nnx.Linear(width, num_classes, use_bias=bias, kernel_init=ends, rngs=rngs)

    def features(self, images):
        """Returns what the head sees, [B, width]."""
        x = images.reshape(images.shape[0], -1)
        if self.unit_inputs:
            # A constant image of 0 stays 0.
            x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-12)
        return self.hidden(self.embed(x))

    def __call__(self, images):
        return self.head(self.features(images))
