"""Layers of long short-term memory (Hochreiter, Schmidhuber 1997), for symbols and for images."""

from flax import nnx

from experiments.models.rnn import CELLS


class _LSTM(nnx.Module):
    """`depth` layers `layer_<i>`, each of the states of the one before, and a `head`.

    Of each layer `cell/dense_i/kernel` [inputs, 4 width] and `cell/dense_h/kernel` [width,
    4 width], whose four parts are input, forget, cell and output. Dropout is before each layer and
    the head, not from one step to the next (Zaremba, Sutskever, Vinyals 2014, arXiv:1409.2329).
    """

    def __init__(self, features, outputs, width, depth, dropout, rngs):
        self.depth = depth
        for i in range(depth):
            layer = CELLS["lstm"](features if i == 0 else width, width, None, rngs)
            setattr(self, f"layer_{i}", layer)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.head = nnx.Linear(width, outputs, rngs=rngs)

    def states(self, x):
        """From x [B, T, features] to the states of the last layer [B, T, width], dropped out."""
        for i in range(self.depth):
            x = getattr(self, f"layer_{i}")(self.dropout(x))
        return self.dropout(x)


class TokenLSTM(_LSTM):
    """Logits [B, T, vocabulary] after each of the symbols [B, T], each first looked up in
    `embed/embedding` [vocabulary, width].

    The language models of Zaremba et al. for 10,000 words: depth 2, width 650 with dropout 0.5
    ("medium") or 1500 with 0.65 ("large").
    """

    def __init__(self, vocabulary, *, width, depth, dropout, rngs):
        super().__init__(width, vocabulary, width, depth, dropout, rngs)
        self.embed = nnx.Embed(vocabulary, width, rngs=rngs)

    def __call__(self, symbols):
        return self.head(self.states(self.embed(symbols)))


class RowLSTM(_LSTM):
    """Logits [B, num_classes] after the last row of images [B, H, W, C], read row by row."""

    def __init__(self, image_shape, num_classes, *, width, depth, dropout, rngs):
        _, columns, channels = image_shape
        super().__init__(columns * channels, num_classes, width, depth, dropout, rngs)

    def __call__(self, images):
        return self.head(self.states(images.reshape(*images.shape[:2], -1))[:, -1])
