"""The text: windows, splits and their place, of a small file that is taken for the original."""

import gzip
import hashlib

import numpy as np
import pytest

from experiments import data
from experiments.data import prepare, releases, text

NAME = "tinyshakespeare"
CONTENT = "".join(np.random.default_rng(0).choice(list("\n abcDE!"), 1000)).encode()


@pytest.fixture
def original(monkeypatch):
    digest = hashlib.sha256(CONTENT).hexdigest()
    small = releases.Original("input.txt", digest, (), {"input.txt": digest})
    monkeypatch.setitem(releases.TEXTS, NAME, small)
    return small


@pytest.fixture
def data_dir(tmp_path, original):
    raw = tmp_path / "raw" / NAME
    raw.mkdir(parents=True)
    (raw / "input.txt.gz").write_bytes(gzip.compress(CONTENT))
    assert prepare.prepare_text(NAME, tmp_path / "data", tmp_path / "raw")
    assert not prepare.prepare_text(NAME, tmp_path / "data", tmp_path / "not_even_there")
    return tmp_path / "data"


def test_windows_are_slices_of_the_text_and_targets_one_character_later(data_dir):
    train, validation, test, vocabulary = text.load_text(NAME, data_dir, 7)
    assert vocabulary == "\n !DEabc"
    characters = np.array(list(vocabulary))
    for split, start in ((train, 0), (validation, 900), (test, 950)):
        indices = np.array([len(split) - 1, 0, 3])
        inputs, targets = split.take(indices)
        assert inputs.dtype == targets.dtype == np.int32
        for i, index in enumerate(indices):
            first = start + index * (1 if split is train else 7)
            window = CONTENT.decode()[first : first + 8]
            assert "".join(characters[inputs[i]]) == window[:7]
            assert "".join(characters[targets[i]]) == window[1:]
    assert [len(split) for split in (train, validation, test)] == [893, 7, 7]


def test_it_is_a_data_set_of_tokens(data_dir):
    dataset = data.load(NAME, data_dir, length=5)
    assert dataset.task == "tokens"
    assert dataset.model_arguments == {"vocabulary": 8, "length": 5}
    assert data.options(NAME) == ("length",)
    assert len(dataset.fingerprint()) == 16


@pytest.mark.parametrize("length", [0, 50])
def test_windows_that_do_not_fit_are_told(data_dir, length):
    with pytest.raises(ValueError, match=f"`length` .* 50 characters .* got {length}"):
        text.load_text(NAME, data_dir, length)


def test_a_changed_or_missing_file_is_told(data_dir, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"prepare_data\.py --dataset=tinyshakespeare"):
        text.load_text(NAME, tmp_path, 7)
    with (data_dir / NAME / "input.txt").open("ab") as file:
        file.write(b"\n")
    with pytest.raises(ValueError, match=r"input\.txt is not the original: expected sha256"):
        text.load_text(NAME, data_dir, 7)
