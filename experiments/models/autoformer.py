"""Autoformer (Wu et al. 2021, arXiv:2106.13008): forecasts of series by decomposition.

Every block splits what it has into a moving average, the trend, and the rest, which is seasonal.
Auto-correlation stands in the place of attention: it compares whole series at the delays at which
they agree most. Written after the paper and its authors' published settings.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx

# PyTorch's default for kernels, with which the published numbers were made: uniform in
# +-1/sqrt(fan_in). Biases start at 0.
KERNEL_INIT = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def decompose(series, window):
    """Splits series [B, L, C] into (seasonal, trend), both [B, L, C], which add up to it.

    The trend is the mean over `window` steps, centred, where the first and the last value go on
    beyond the ends.
    """
    padded = jnp.pad(series, ((0, 0), (window // 2, window // 2), (0, 0)), mode="edge")
    trend = nnx.avg_pool(padded, (window,), strides=(1,))
    return series - trend, trend


def correlations(queries, keys):
    """R[b, τ] = Σ_t <queries[b, t + τ], keys[b, t]> / D, indices modulo L: [B, L, D] -> [B, L].

    By the Fourier transform (Wiener and Khinchin). The mean over the channels D is taken before
    the transform back, which is linear.
    """
    spectrum = jnp.fft.rfft(queries, axis=1) * jnp.fft.rfft(keys, axis=1).conj()
    return jnp.fft.irfft(spectrum.mean(axis=-1), n=queries.shape[1], axis=1)


def aggregate(values, correlation, count, shared):
    """Σ_i w[b, i] values[b, t + τ_i], indices modulo L, over the `count` most correlated delays.

    The weights w are the softmax of the correlations at these delays. The direction of the shift is
    that of the paper's code.

    Args:
        values: [B, L, D].
        correlation: [B, L].
        count: number of delays.
        shared: whether all examples take the delays of the largest mean correlation, which needs
            no gather; else each example takes its own.

    Returns:
        [B, L, D].
    """
    _, delays = jax.lax.top_k(correlation.mean(axis=0) if shared else correlation, count)
    selected = correlation[:, delays] if shared else jnp.take_along_axis(correlation, delays, 1)
    weights = jax.nn.softmax(selected, axis=1)
    # Slices of two periods, not `jnp.roll`, whose derivative takes several times as long on CPU.
    doubled = jnp.concatenate([values, values], axis=1)

    def shifted(series, delay):
        return jax.lax.dynamic_slice_in_dim(series, delay, values.shape[1], axis=-2)

    shift = shifted if shared else jax.vmap(shifted)
    return sum(weights[:, i, None, None] * shift(doubled, delays[..., i]) for i in range(count))


def _match_length(series, length):
    """Cuts series [B, S, D] to its first `length` steps, or fills it up with zeros."""
    missing = max(0, length - series.shape[1])
    return jnp.pad(series[:, :length], ((0, 0), (0, missing), (0, 0)))


class AutoCorrelation(nnx.Module):
    """Projections around `correlations` and `aggregate`, of int(factor log L) delays, at least 1.

    In training a batch shares its delays, in evaluation each example has its own (paper's code).
    Heads would change nothing: the delays are those of the mean over heads and channels.
    """

    def __init__(self, width, factor, *, rngs):
        self.factor = factor
        self.deterministic = False  # set by `train()` and `eval()`, as in `nnx.Dropout`
        for name in ("query", "key", "value", "out"):
            setattr(self, name, nnx.Linear(width, width, kernel_init=KERNEL_INIT, rngs=rngs))

    def __call__(self, x, source):
        """From x [B, L, D] as queries and source [B, S, D] as keys and values to [B, L, D]."""
        length = x.shape[1]
        keys = _match_length(self.key(source), length)
        values = _match_length(self.value(source), length)
        count = max(1, int(self.factor * math.log(length)))
        correlation = correlations(self.query(x), keys)
        return self.out(aggregate(values, correlation, count, shared=not self.deterministic))


class Layer(nnx.Module):
    """The part that encoder and decoder layers share: two linear maps without bias, and dropout."""

    def __init__(self, width, hidden, window, dropout, *, rngs):
        self.window = window
        linear = {"use_bias": False, "kernel_init": KERNEL_INIT, "rngs": rngs}
        self.feed_in = nnx.Linear(width, hidden, **linear)
        self.feed_out = nnx.Linear(hidden, width, **linear)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def add(self, x, change):
        """Returns the seasonal part and the trend of x + dropout(change)."""
        return decompose(x + self.dropout(change), self.window)

    def feed_forward(self, x):
        return self.feed_out(self.dropout(jax.nn.gelu(self.feed_in(x), approximate=False)))


class EncoderLayer(Layer):
    """Auto-correlation and feed-forward, each followed by a decomposition that drops the trend."""

    def __init__(self, width, hidden, window, factor, dropout, *, rngs):
        super().__init__(width, hidden, window, dropout, rngs=rngs)
        self.attention = AutoCorrelation(width, factor, rngs=rngs)

    def __call__(self, x):
        x, _ = self.add(x, self.attention(x, x))
        x, _ = self.add(x, self.feed_forward(x))
        return x


class DecoderLayer(Layer):
    """As an encoder layer, also looks at the encoded past, and returns the trends it took out."""

    def __init__(self, channels, width, hidden, window, factor, dropout, *, rngs):
        super().__init__(width, hidden, window, dropout, rngs=rngs)
        self.self_attention = AutoCorrelation(width, factor, rngs=rngs)
        self.cross_attention = AutoCorrelation(width, factor, rngs=rngs)
        self.trend = _circular_conv(width, channels, KERNEL_INIT, rngs)

    def __call__(self, x, past):
        """From [B, L, D] and the encoded past [B, S, D] to ([B, L, D], trend [B, L, C])."""
        x, first = self.add(x, self.self_attention(x, x))
        x, second = self.add(x, self.cross_attention(x, past))
        x, third = self.add(x, self.feed_forward(x))
        return x, self.trend(first + second + third)


class Embedding(nnx.Module):
    """Circular convolution of the values plus linear map of the marks; no positions."""

    def __init__(self, channels, marks, width, dropout, *, rngs):
        self.values = _circular_conv(channels, width, nnx.initializers.he_normal(), rngs)
        self.marks = nnx.Linear(marks, width, use_bias=False, kernel_init=KERNEL_INIT, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, values, marks):
        return self.dropout(self.values(values) + self.marks(marks))


def _circular_conv(inputs, outputs, init, rngs):
    return nnx.Conv(
        inputs, outputs, 3, padding="CIRCULAR", use_bias=False, kernel_init=init, rngs=rngs
    )


class SeasonalNorm(nnx.LayerNorm):
    """Layer normalization minus its mean over time, which leaves a series without a level.

    So its bias has no effect; it is there as in the paper's code.
    """

    def __init__(self, width, *, rngs):
        super().__init__(width, epsilon=1e-5, rngs=rngs)

    def __call__(self, x):
        x = super().__call__(x)
        return x - x.mean(axis=1, keepdims=True)


class Autoformer(nnx.Module):
    """Forecasts `horizon` steps of a series with C = `channels` from its last `history` steps.

    Kernels: `encoder_<i>/attention/{query,key,value,out}/kernel` [D, D], D = `width`;
    `encoder_<i>/feed_in/kernel` [D, hidden] and `feed_out/kernel` [hidden, D]; the same in
    `decoder_<i>`, with `self_attention` and `cross_attention`, and `trend/kernel` [3, D, C]. Before
    these `{past,future}_embedding/values/kernel` [3, C, D] and `marks/kernel` [marks, D], after
    them `head/kernel` [D, C].

    Args:
        history: number of steps that are seen; the decoder starts from the second half of these.
        horizon: number of steps to forecast.
        channels: C.
        marks: number of features of the calendar.
        width: D. Published setting: 512.
        heads: divides `width`, and has no other effect: delays and weights are those of the mean
            over all heads and channels. Published: 8.
        encoder_layers: published: 2.
        decoder_layers: published: 1.
        hidden: width of the feed-forward. Published: 2048.
        moving_average: window of the decompositions, odd. Published: 25.
        factor: auto-correlation takes int(factor log L) delays of series of length L. Published: 1
            for ETTm2.
        dropout: published: 0.05.
    """

    def __init__(
        self,
        history,
        horizon,
        channels,
        marks,
        *,
        width,
        heads,
        encoder_layers,
        decoder_layers,
        hidden,
        moving_average,
        factor,
        dropout,
        rngs,
    ):
        if width % heads:
            raise ValueError(f"`heads` divides `width`, got {heads} heads for width {width}.")
        if moving_average < 1 or moving_average % 2 == 0:
            raise ValueError(f"`moving_average` is odd and at least 1, got {moving_average}.")
        self.tail, self.horizon = history // 2, horizon
        self.encoder_layers, self.decoder_layers = encoder_layers, decoder_layers
        self.window = moving_average
        layer = (width, hidden, moving_average, factor, dropout)
        self.past_embedding = Embedding(channels, marks, width, dropout, rngs=rngs)
        for i in range(encoder_layers):
            setattr(self, f"encoder_{i}", EncoderLayer(*layer, rngs=rngs))
        self.encoder_norm = SeasonalNorm(width, rngs=rngs)
        self.future_embedding = Embedding(channels, marks, width, dropout, rngs=rngs)
        for i in range(decoder_layers):
            setattr(self, f"decoder_{i}", DecoderLayer(channels, *layer, rngs=rngs))
        self.decoder_norm = SeasonalNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, channels, kernel_init=KERNEL_INIT, rngs=rngs)

    def __call__(self, inputs):
        """Returns the forecast [B, horizon, C].

        Args:
            inputs: "past" [B, history, C], "past_marks" [B, history, marks], and "future_marks"
                [B, horizon, marks].
        """
        past, past_marks = inputs["past"], inputs["past_marks"]
        x = self.past_embedding(past, past_marks)
        for i in range(self.encoder_layers):
            x = getattr(self, f"encoder_{i}")(x)
        encoded = self.encoder_norm(x)

        # The decoder goes on from the last steps seen: seasonal part 0, trend at the mean.
        start = past.shape[1] - self.tail
        seasonal, trend = (part[:, start:] for part in decompose(past, self.window))
        mean = jnp.broadcast_to(
            past.mean(axis=1, keepdims=True), (len(past), self.horizon, past.shape[2])
        )
        seasonal = jnp.concatenate([seasonal, jnp.zeros_like(mean)], axis=1)
        trend = jnp.concatenate([trend, mean], axis=1)
        marks = jnp.concatenate([past_marks[:, start:], inputs["future_marks"]], axis=1)
        x = self.future_embedding(seasonal, marks)
        for i in range(self.decoder_layers):
            x, change = getattr(self, f"decoder_{i}")(x, encoded)
            trend += change
        return (trend + self.head(self.decoder_norm(x)))[:, -self.horizon :]
