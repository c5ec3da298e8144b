"""Preparation through tfds' real writer and reader, from small files in the official formats."""

import gzip
import hashlib
import http.server
import io
import lzma
import os
import struct
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from experiments import data
from experiments.data import originals, prepare
from experiments.data.releases import RELEASES, Original

SCRIPT = Path(__file__).parents[1] / "scripts" / "prepare_data.py"
COUNTS = {"train": 40, "test": 20}  # COUNTS["train"] is a multiple of CIFAR-10's five batches


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def random_split(split, shape, num_classes):
    rng = np.random.default_rng(len(split))
    images = rng.integers(0, 256, size=(COUNTS[split], *shape), dtype=np.uint8)
    return images, rng.integers(0, num_classes, size=COUNTS[split]).astype(np.uint8)


MNIST = {split: random_split(split, (28, 28, 1), 10) for split in COUNTS}
CIFAR10 = {split: random_split(split, (32, 32, 3), 10) for split in COUNTS}
CIFAR100 = {split: random_split(split, (32, 32, 3), 100) for split in COUNTS}


def mnist_contents():
    contents = {}
    for split, prefix in {"train": "train", "test": "t10k"}.items():
        images, labels = MNIST[split]
        header = struct.pack(">iiii", 2051, len(images), 28, 28)
        contents[f"{prefix}-images-idx3-ubyte"] = header + images.tobytes()
        header = struct.pack(">ii", 2049, len(labels))
        contents[f"{prefix}-labels-idx1-ubyte"] = header + labels.tobytes()
    return contents


def cifar_rows(images, *labels):
    planes = [
        bytes([*label]) + image.transpose(2, 0, 1).tobytes()
        for image, *label in zip(images, *labels, strict=True)
    ]
    return b"".join(planes)


def cifar10_contents():
    images, labels = CIFAR10["train"]
    batches = zip(np.split(images, 5), np.split(labels, 5), strict=True)
    contents = {f"data_batch_{i}.bin": cifar_rows(*batch) for i, batch in enumerate(batches, 1)}
    return contents | {"test_batch.bin": cifar_rows(*CIFAR10["test"])}


def cifar100_contents():
    contents = {
        f"{split}.bin": cifar_rows(images, labels // 5, labels)
        for split, (images, labels) in CIFAR100.items()
    }
    contents["fine_label_names.txt"] = "".join(f"fine_{i}\n" for i in range(100)).encode()
    contents["coarse_label_names.txt"] = "".join(f"coarse_{i}\n" for i in range(20)).encode()
    return contents


def gz_release(contents, folder, known=True):
    """Writes published .gz files and returns the release that describes them."""
    folder.mkdir(parents=True, exist_ok=True)
    release = []
    for name, content in contents.items():
        packed = gzip.compress(content)
        (folder / f"{name}.gz").write_bytes(packed)
        inside = {name: sha256(content) if known else None}
        release.append(Original(f"{name}.gz", sha256(packed), (), inside))
    return release


def tar_release(name, prefix, contents, folder, known=False):
    folder.mkdir(parents=True, exist_ok=True)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for member, content in {"../outside.txt": b"!", **contents}.items():
            info = tarfile.TarInfo(f"{prefix}/{member}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    (folder / name).write_bytes(file.getvalue())
    inside = {f"{prefix}/{n}": sha256(c) if known else None for n, c in contents.items()}
    return [Original(name, sha256(file.getvalue()), (), inside)]


def assert_holds(dataset, splits):
    """Every example of `splits` is in the data set, and no other, whatever the order."""
    for split, (images, labels) in splits.items():
        loaded = getattr(dataset, split)
        found = zip(loaded.images, loaded.labels, strict=True)
        assert sorted((i.tobytes(), int(y)) for i, y in found) == sorted(
            (i.tobytes(), int(y)) for i, y in zip(images, labels, strict=True)
        )


@pytest.fixture(scope="module")
def prepared_mnist(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mnist")
    release = gz_release(mnist_contents(), folder / "raw" / "mnist")
    assert prepare.prepare("mnist", folder / "tfds", folder / "raw", release)
    return folder / "tfds"


def test_mnist_is_read_back_exactly(prepared_mnist):
    dataset = data.load("mnist", prepared_mnist)
    assert_holds(dataset, MNIST)
    assert dataset.train.images.shape == (40, 28, 28, 1)
    np.testing.assert_allclose(dataset.mean, [MNIST["train"][0].mean() / 255], rtol=1e-12)


def test_the_second_load_takes_the_decoded_copy_and_is_the_same(prepared_mnist, monkeypatch):
    first = data.load("mnist", prepared_mnist)
    monkeypatch.setattr("experiments.data.sources._decode", None)  # would raise if it were called
    second = data.load("mnist", prepared_mnist)
    np.testing.assert_array_equal(first.train.images, second.train.images)
    np.testing.assert_array_equal(first.test.labels, second.test.labels)
    assert first[5:] == second[5:]
    assert first.model_arguments == {"image_shape": (28, 28, 1), "num_classes": 10}


def test_a_damaged_decoded_copy_is_made_again(prepared_mnist):
    data.load("mnist", prepared_mnist)
    (copy,) = prepared_mnist.glob("mnist/*/orthojax-decoded-*.npz")
    intact = copy.stat().st_size
    copy.write_bytes(copy.read_bytes()[: intact // 2])
    assert_holds(data.load("mnist", prepared_mnist), MNIST)
    assert copy.stat().st_size == intact


def test_changed_records_are_decoded_again(prepared_mnist):
    data.load("mnist", prepared_mnist)
    before = set(prepared_mnist.glob("mnist/*/orthojax-decoded-*.npz"))
    (records,) = prepared_mnist.glob("mnist/*/mnist-train.array_record*")
    os.utime(records, (1e9, 1e9))
    data.load("mnist", prepared_mnist)
    assert len(set(prepared_mnist.glob("mnist/*/orthojax-decoded-*.npz")) - before) == 1


def test_without_write_access_data_load_all_the_same(prepared_mnist, monkeypatch):
    for copy in prepared_mnist.glob("mnist/*/orthojax-decoded-*.npz"):
        copy.unlink()

    def refuse(**_):  # the permission bits do not stop a root user
        raise PermissionError

    monkeypatch.setattr("experiments.data.sources.tempfile.mkstemp", refuse)
    assert_holds(data.load("mnist", prepared_mnist), MNIST)
    assert not list(prepared_mnist.glob("mnist/*/*.npz"))


def test_loading_is_silent(prepared_mnist):
    code = f"from experiments import data; data.load('mnist', {os.fspath(prepared_mnist)!r})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_plain_tfds_reads_what_was_written_under_the_official_name(prepared_mnist):
    source = tfds.data_source("mnist", split="test", data_dir=prepared_mnist, download=False)
    images, labels = MNIST["test"]
    expected = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    assert len(source) == 20
    assert all(expected[example["image"].tobytes()] == example["label"] for example in source)


def test_preparing_again_changes_nothing(prepared_mnist, tmp_path):
    assert not prepare.prepare("mnist", prepared_mnist, raw_dir=tmp_path / "not_even_there")


def test_fashion_mnist_is_prepared_from_the_published_files(tmp_path):
    release = gz_release(mnist_contents(), tmp_path / "raw", known=False)
    prepare.prepare("fashion_mnist", tmp_path / "tfds", tmp_path / "raw", release)
    assert_holds(data.load("fashion_mnist", tmp_path / "tfds"), MNIST)


def test_cifar10_is_prepared_from_loose_batches(tmp_path):
    contents = cifar10_contents()
    release = tar_release("cifar-10-binary.tar.gz", "batches", contents, tmp_path / "tar", True)
    (tmp_path / "raw" / "cifar10").mkdir(parents=True)
    for name, content in contents.items():
        (tmp_path / "raw" / "cifar10" / f"{name}.xz").write_bytes(lzma.compress(content))
    prepare.prepare("cifar10", tmp_path / "tfds", tmp_path / "raw", release)
    assert_holds(data.load("cifar10", tmp_path / "tfds"), CIFAR10)
    source = tfds.data_source("cifar10", data_dir=tmp_path / "tfds", download=False)
    assert source["train"].dataset_info.features["label"].names[9] == "truck"
    for split, (images, labels) in CIFAR10.items():
        for example in source[split]:
            index = int(example["id"].decode().removeprefix(f"{split}_"))
            np.testing.assert_array_equal(example["image"], images[index])
            assert example["label"] == labels[index]


def test_cifar100_is_prepared_from_the_archive_with_both_labels(tmp_path):
    contents = cifar100_contents()
    release = tar_release("cifar-100-binary.tar.gz", "binary", contents, tmp_path / "raw")
    prepare.prepare("cifar100", tmp_path / "tfds", tmp_path / "raw", release)
    dataset = data.load("cifar100", tmp_path / "tfds")
    assert_holds(dataset, CIFAR100)
    assert dataset.model_arguments["num_classes"] == 100
    source = tfds.data_source("cifar100", split="train", data_dir=tmp_path / "tfds", download=False)
    assert all(example["coarse_label"] == example["label"] // 5 for example in source)
    assert source.dataset_info.features["label"].names[99] == "fine_99"
    assert source.dataset_info.features["coarse_label"].names[19] == "coarse_19"


def test_reading_an_archive_writes_nothing(tmp_path):
    release = tar_release("a.tar.gz", "in", {"train.bin": b"abc"}, tmp_path / "raw")
    assert originals.read(release, tmp_path / "raw") == {"train.bin": b"abc"}
    assert [path.name for path in tmp_path.rglob("*")] == ["raw", "a.tar.gz"]


@pytest.mark.parametrize(
    ("suffix", "pack"), [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress)]
)
def test_contents_of_known_digest_are_read_in_any_packing(tmp_path, suffix, pack):
    release = [Original("a.gz", "of the published file", (), {"a": sha256(b"abc")})]
    (tmp_path / f"a{suffix}").write_bytes(pack(b"abc"))
    assert originals.read(release, tmp_path) == {"a": b"abc"}


@pytest.mark.parametrize("known", [True, False])
def test_another_sha256_is_an_error_that_names_file_expected_and_got(tmp_path, known):
    release = gz_release({"a": b"abc"}, tmp_path, known)
    forged = gzip.compress(b"abd")
    (tmp_path / "a.gz").write_bytes(forged)
    expected, got = (
        (sha256(b"abc"), sha256(b"abd")) if known else (release[0].sha256, sha256(forged))
    )
    with pytest.raises(ValueError, match=rf"a\.gz.*expected sha256 {expected}, got {got}"):
        originals.read(release, tmp_path)


def test_a_plain_file_of_unknown_digest_is_not_taken(tmp_path):
    release = [Original("a.gz", "of the published file", (), {"a": None})]
    (tmp_path / "a").write_bytes(b"abc")
    with pytest.raises(FileNotFoundError, match=r"does not have a\.gz\.$"):
        originals.read(release, tmp_path)


def test_missing_files_are_named(tmp_path):
    contents = {"one.bin": b"1", "two.bin": b"2"}
    release = tar_release("all.tar.gz", "in", contents, tmp_path / "elsewhere", known=True)
    (tmp_path / "one.bin").write_bytes(b"1")
    with pytest.raises(FileNotFoundError, match=r"does not have all\.tar\.gz, nor its two\.bin \("):
        originals.read(release, tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.xz", lzma.compress(bytes(1000))[:-20]),
        ("a.gz", gzip.compress(bytes(1000))[:-12]),
        ("a.gz", b"not gzip"),
    ],
    ids=["short xz", "short gz", "no gz"],  # gzip's bytes hold the time.
)
def test_a_damaged_file_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} is damaged"):
        originals.read([Original("a.gz", "", (), {"a": sha256(bytes(1000))})], tmp_path)


@pytest.mark.parametrize("kept", [0.5, 0.0])
def test_a_damaged_archive_is_named(tmp_path, kept):
    noise = np.random.default_rng(0).bytes(50_000)
    (original,) = tar_release("a.tar.gz", "in", {"train.bin": noise}, tmp_path)
    whole = (tmp_path / "a.tar.gz").read_bytes()
    damaged = whole[: int(kept * len(whole))]
    (tmp_path / "a.tar.gz").write_bytes(damaged)
    with pytest.raises(ValueError, match=r"a\.tar\.gz is not the original"):
        originals.read([original], tmp_path)
    with pytest.raises(ValueError, match=r"a\.tar\.gz is damaged"):
        originals.read([original._replace(sha256=sha256(damaged))], tmp_path)


def test_an_archive_without_a_member_is_named(tmp_path):
    (original,) = tar_release("a.tar.gz", "in", {"train.bin": b"abc"}, tmp_path)
    with pytest.raises(ValueError, match=r"a\.tar\.gz is damaged.*in/test\.bin"):
        originals.read([original._replace(contents={"in/test.bin": None})], tmp_path)


def test_files_of_another_layout_are_refused():
    contents = mnist_contents()
    images = contents["train-images-idx3-ubyte"]
    with pytest.raises(ValueError, match="train-images-idx3-ubyte is not an IDX file"):
        prepare.parse_mnist(contents | {"train-images-idx3-ubyte": b"\1" + images})
    with pytest.raises(ValueError, match=r"announces shape \[40, 28, 28\]"):
        prepare.parse_mnist(contents | {"train-images-idx3-ubyte": images[:-1]})
    with pytest.raises(ValueError, match="test rows are 3073 bytes each"):
        prepare.parse_cifar10(cifar10_contents() | {"test_batch.bin": b"too short"})


@pytest.mark.parametrize("name", RELEASES)
def test_the_table_of_releases_agrees_with_tensorflow_datasets(name):
    registered = tfds.builder_cls(name).url_infos
    table = {url: original.sha256 for original in RELEASES[name] for url in original.urls}
    assert {url: info.checksum for url, info in registered.items()}.items() <= table.items()


@pytest.fixture
def server(tmp_path):
    """Serves `tmp_path/www` on this machine, with byte ranges; requests are listed in `.log`."""

    class Files(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requested = self.headers.get("Range")
            self.server.log.append((self.path, requested))
            try:
                content = (tmp_path / "www" / self.path.strip("/")).read_bytes()
            except OSError:
                return self.send_error(404)
            start = int(requested.removeprefix("bytes=").strip("-")) if requested else 0
            if requested and start >= len(content):
                return self.send_error(416)
            self.send_response(206 if requested else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            cut = -5 if self.path.startswith("/cut") and not requested else None
            self.wfile.write(content[start:cut])

        def log_message(self, *_):
            pass

    (tmp_path / "www").mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files) as server:
        server.log = []
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_download_tries_each_url_until_the_digest_is_right(tmp_path, server):
    (tmp_path / "www" / "wrong").write_bytes(b"another file")
    (tmp_path / "www" / "right").write_bytes(b"content")
    urls = tuple(f"{server.url}/{path}" for path in ("absent", "wrong", "right"))
    release = [Original("a.bin", sha256(b"content"), urls, {})]
    for _ in range(2):  # the second time it is there
        originals.download(release, tmp_path / "downloads")
        assert [path for path, _ in server.log] == ["/absent", "/wrong", "/right"]
    assert [path.name for path in (tmp_path / "downloads").iterdir()] == ["a.bin"]
    assert (tmp_path / "downloads" / "a.bin").read_bytes() == b"content"


def test_an_interrupted_download_is_continued(tmp_path, server):
    content = bytes(range(200))
    (tmp_path / "www" / "cut").write_bytes(content)
    release = [Original("a.bin", sha256(content), (f"{server.url}/cut",), {})]
    with pytest.raises(ConnectionError, match=r"a\.bin.*195 of 200 bytes.*run this again"):
        originals.download(release, tmp_path)
    assert not (tmp_path / "a.bin").exists()
    originals.download(release, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == content
    assert server.log == [("/cut", None), ("/cut", "bytes=195-")]


def test_a_complete_but_unfinished_download_is_finished(tmp_path, server):
    (tmp_path / "www" / "a").write_bytes(b"content")
    (tmp_path / "a.bin.part").write_bytes(b"content")
    originals.download([Original("a.bin", sha256(b"content"), (f"{server.url}/a",), {})], tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == b"content"


def test_preparation_downloads_below_data_dir(tmp_path, server):
    release = [
        original._replace(urls=(f"{server.url}/{original.name}",))
        for original in gz_release(mnist_contents(), tmp_path / "www")
    ]
    assert prepare.prepare("mnist", tmp_path / "tfds", release=release)
    assert len(list((tmp_path / "tfds" / "downloads" / "mnist").glob("*.gz"))) == 4
    assert_holds(data.load("mnist", tmp_path / "tfds"), MNIST)


def test_the_format_without_random_access_is_refused(tmp_path, prepared_mnist):
    folder = tmp_path / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    for path in prepared_mnist.glob("mnist/3.0.1/*.json"):
        text = path.read_text().replace('"array_record"', '"tfrecord"')
        (folder / path.name).write_text(text)
    with pytest.raises(ValueError, match="tfrecord, which has no random access"):
        data.load("mnist", tmp_path)
    with pytest.raises(ValueError, match="as tfrecord, not as array_record; give another"):
        prepare.prepare("mnist", tmp_path)


def test_an_address_is_not_taken_for_a_local_folder():
    with pytest.raises(ValueError, match="local folder, got gs://bucket/data"):
        prepare.prepare("mnist", "gs://bucket/data")


def run_script(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)


def test_the_script_leaves_a_prepared_set_and_says_so(prepared_mnist):
    result = run_script("--dataset=mnist_5k,mnist", f"--data_dir={prepared_mnist}")
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0].startswith("mnist_5k comes with")
    assert lines[1] == f"mnist: already prepared in {prepared_mnist}."


def test_the_script_refuses_other_files_in_one_line(tmp_path):
    gz_release(mnist_contents(), tmp_path)  # not the official ones
    result = run_script("--dataset=mnist", f"--raw_dir={tmp_path}", f"--data_dir={tmp_path}")
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"prepare_data: {tmp_path}/train-images-idx3-ubyte.gz")
    assert "is not the original" in line
    assert not (tmp_path / "mnist").exists()
