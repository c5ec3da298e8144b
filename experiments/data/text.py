"""A text as a sequence of characters: windows in which each character is to be foretold.

train, validation, test, vocabulary = load_text("tinyshakespeare", data_dir=None, length=64)
inputs, targets = train.take([0, 1, 2])
"""

import dataclasses
import os
import shlex
from pathlib import Path

import numpy as np

from experiments.data import originals, sources
from experiments.data.releases import TEXTS

# Of the text: train and validation; the rest is for testing. The first nine tenths are the train
# split of nanoGPT (github.com/karpathy/nanoGPT), whose validation split is the last tenth.
PARTS = (0.9, 0.05)


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
    """Examples cut out of one text: `length` characters as inputs, the ones after each as
    targets."""

    symbols: np.ndarray  # uint8 [T]
    starts: np.ndarray  # int [N], first character of each window
    length: int

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, indices) -> tuple[np.ndarray, np.ndarray]:
        """Returns inputs and targets, int32 [B, length], of the windows at `indices`, int [B]."""
        places = self.starts[indices][:, None] + np.arange(self.length + 1)
        symbols = self.symbols[places].astype(np.int32)
        return symbols[:, :-1], symbols[:, 1:]


def load_text(
    name: str, data_dir: str | os.PathLike | None, length: int
) -> tuple[Windows, Windows, Windows, str]:
    """Returns train, validation and test windows of a text, and its characters, sorted: symbol k
    stands for the k-th.

    A train window begins at each character. Those of validation and test lie one after another:
    each of their characters but the first, and fewer than `length` at the end, is a target once.

    Args:
        name: a key of `TEXTS`.
        data_dir: folder that has the text in the folder of its name; by default $TFDS_DATA_DIR,
            else ~/tensorflow_datasets.
        length: characters of a window.

    Raises:
        FileNotFoundError: a set that is not prepared; the message has the command that does it.
        ValueError: a file that is not the original, or windows longer than a split.
    """
    path = text_path(name, data_dir)
    if not path.is_file():
        option = f" --data_dir={shlex.quote(os.fspath(data_dir))}" if data_dir else ""
        raise FileNotFoundError(
            f"{name} is not prepared: there is no {path}; run: "
            f"python scripts/prepare_data.py --dataset={name}{option}"
        )
    content = path.read_bytes()
    originals.check_sha256(path, content, TEXTS[name].sha256)
    vocabulary, symbols = np.unique(np.frombuffer(content, np.uint8), return_inverse=True)
    symbols = symbols.astype(np.uint8)
    ends = (np.cumsum([0.0, *PARTS]) * len(symbols)).astype(int)
    shortest = min(*np.diff(ends), len(symbols) - ends[-1])
    if not 1 <= length < shortest:
        raise ValueError(
            f"`length` is at least 1 and less than the {shortest} characters of the smallest split "
            f"of {name}, got {length}."
        )
    parts = np.split(symbols, ends[1:])
    strides = (1, length, length)
    splits = (
        Windows(part, np.arange(0, len(part) - length, stride), length)
        for part, stride in zip(parts, strides, strict=True)
    )
    return *splits, vocabulary.tobytes().decode("ascii")


def text_path(name: str, data_dir: str | os.PathLike | None = None) -> Path:
    """Returns where the file of a set lies, whether or not it is there."""
    folder = Path(data_dir).expanduser() if data_dir else sources.default_data_dir()
    return folder / name / TEXTS[name].name
