"""Variational autoencoder of binary images, with flows after its Gaussian posterior."""

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.models.layers import ACTIVATIONS
from orthojax import flows

POSTERIORS = ("diagonal", "householder", "sylvester")


class VAE(nnx.Module):
    """Two hidden layers of `width` each way between H W C pixels and `latents`.

    `posterior` "diagonal" is N(mean, diag(exp(2 log_deviation))) of the encoder's outputs (Kingma,
    Welling 2014, arXiv:1312.6114), followed by amortized flows, their parameters linear in the last
    hidden layer: "householder", `layers` times `reflections` of them (Tomczak, Welling 2016,
    arXiv:1611.09630, where each normal is linear in the one before), or "sylvester", `layers`
    Sylvester flows with as many `reflections` each (van den Berg et al. 2018, arXiv:1803.05649:
    H-SNF).

    Takes pixels in [0, 1] and binarizes them anew at each call, 1 with the probability of their
    value, in training and in tests; returns the negative of the lower bound of the log-likelihood
    [B] in nats, by one sample of the posterior.
    """

    def __init__(
        self, image_shape, *, width, latents, activation, posterior, layers, reflections, rngs
    ):
        if posterior != "diagonal" and min(layers, reflections) < 1:
            raise ValueError(
                f"`posterior` {posterior} needs `layers` and `reflections` of at least 1, got "
                f"{layers} and {reflections}."
            )
        height, image_width, channels = image_shape
        pixels = height * image_width * channels
        self.latents, self.posterior, self.layers = latents, posterior, layers
        self.activation = ACTIVATIONS[activation]
        self.encode_0 = nnx.Linear(pixels, width, rngs=rngs)
        self.encode_1 = nnx.Linear(width, width, rngs=rngs)
        self.gaussian = nnx.Linear(width, 2 * latents, rngs=rngs)
        if posterior != "diagonal":
            # Large biases: the reflections begin nearly the same for all images.
            standard = nnx.initializers.normal(1.0)
            size = layers * latents * reflections
            self.normals = nnx.Linear(width, size, bias_init=standard, rngs=rngs)
        if posterior == "sylvester":
            self.triangles = nnx.Linear(width, layers * latents**2, rngs=rngs)
            self.diagonals = nnx.Linear(width, layers * 3 * latents, rngs=rngs)
        self.decode_0 = nnx.Linear(latents, width, rngs=rngs)
        self.decode_1 = nnx.Linear(width, width, rngs=rngs)
        self.pixels = nnx.Linear(width, pixels, rngs=rngs)
        self.noise = rngs["noise"].fork()

    def encode(self, x):
        """Pixels [B, D] -> latents [B, n] and their log-densities [B] under the posterior."""
        batch = x.shape[0]
        h = self.activation(self.encode_1(self.activation(self.encode_0(2 * x - 1))))
        mean, log_deviation = jnp.split(self.gaussian(h), 2, axis=-1)
        noise = jax.random.normal(self.noise(), mean.shape)
        z = mean + jnp.exp(log_deviation) * noise
        log_density = flows.standard_normal(noise) - jnp.sum(log_deviation, axis=-1)
        if self.posterior == "diagonal":
            return z, log_density

        def layers_first(outputs, *shape):
            return jnp.moveaxis(outputs.reshape(batch, self.layers, *shape), 1, 0)

        own = {"v": layers_first(self.normals(h), self.latents, -1)}
        if self.posterior == "sylvester":
            # One matrix holds both strict triangles.
            own["both"] = layers_first(self.triangles(h), self.latents, self.latents)
            own["rest"] = layers_first(self.diagonals(h), 3, self.latents)
        (z, log_density), _ = jax.lax.scan(self._layer, (z, log_density), own)
        return z, log_density

    def _layer(self, carry, own):
        """One layer of the flow, whose parameters `own` have an axis of examples in front."""
        z, log_density = carry
        if self.posterior == "householder":
            z, log_det = flows.householder_flow(z, own["v"])
        else:
            eye = jnp.eye(self.latents)
            first, second, bias = (own["rest"][:, i] for i in range(3))
            r_tilde = jnp.triu(own["both"].mT, 1) + eye * second[..., None]
            r = flows.invertible(jnp.triu(own["both"], 1) + eye * first[..., None], r_tilde)
            z, log_det = flows.householder_sylvester(z, own["v"], r, r_tilde, bias)
        return (z, log_density - log_det), None

    def decode(self, z):
        """Latents [B, n] -> logits of the pixels [B, D]."""
        return self.pixels(self.activation(self.decode_1(self.activation(self.decode_0(z)))))

    def __call__(self, images):
        values = images.reshape(images.shape[0], -1)
        x = (jax.random.uniform(self.noise(), values.shape) < values).astype(jnp.float32)
        z, log_posterior = self.encode(x)
        logits = self.decode(z)
        # log p(x | z) = sum log sigmoid(+-logit).
        log_likelihood = -jnp.sum(jax.nn.softplus((1 - 2 * x) * logits), axis=-1)
        return log_posterior - flows.standard_normal(z) - log_likelihood
