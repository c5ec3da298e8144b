"""Copy memory: a string of symbols, to be repeated after a long pause.

    train, test = load_copying(length=1000, symbols=10)
    inputs, targets = train.take([0, 1, 2])

Hochreiter and Schmidhuber 1997; in this form Arjovsky, Shah, Bengio 2016, arXiv:1511.06464.
"""

import dataclasses

import numpy as np

ALPHABET = 8
BLANK, MARKER = 0, ALPHABET + 1
VOCABULARY = ALPHABET + 2
EXAMPLES = 1 << 19, 512  # train, test


@dataclasses.dataclass(frozen=True)
class Copying:
    """Examples made from their indices, by a hash.

    Inputs are K symbols of 1 to 8, L blanks, the marker, which asks for the symbols, and K - 1
    blanks; targets are blanks and, from the marker on, the K symbols: both of L + 2K. Who remembers
    nothing but the time has a mean cross-entropy of K ln 8 / (L + 2K).
    """

    length: int  # L
    symbols: int  # K
    first: int  # index of the first example among all
    count: int

    def __len__(self) -> int:
        return self.count

    def take(self, indices) -> tuple[np.ndarray, np.ndarray]:
        """Returns inputs and targets, int32 [B, L + 2K], of the examples at `indices`, int [B]."""
        numbers = (self.first + np.asarray(indices, np.uint64))[:, None] * np.uint64(self.symbols)
        mixed = _mixed(numbers + np.arange(self.symbols, dtype=np.uint64))
        symbols = 1 + (mixed >> np.uint64(61)).astype(np.int32)
        inputs = np.zeros((len(symbols), self.length + 2 * self.symbols), np.int32)
        targets = inputs.copy()
        inputs[:, : self.symbols] = targets[:, -self.symbols :] = symbols
        inputs[:, -self.symbols] = MARKER
        return inputs, targets


def _mixed(x):
    """splitmix64 of each number, uint64: Steele, Lea, Flood 2014, doi:10.1145/2660193.2660195."""
    x = (x + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def load_copying(length: int, symbols: int) -> tuple[Copying, Copying]:
    """Returns train and test examples of `symbols` K after a pause of `length` L."""
    train, test = EXAMPLES
    return Copying(length, symbols, 0, train), Copying(length, symbols, train, test)
