"""Reading and downloading original releases, with proof that every file is the right one.

Nothing is returned whose SHA-256 was not checked: that of the file as published, or that of what is
inside, so that a recompressed copy serves as well where the latter is known.
"""

import gzip
import hashlib
import http.client
import io
import lzma
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from experiments.data.releases import Original

OPENERS = {"": open, ".gz": gzip.open, ".xz": lzma.open}
BLOCK = 1 << 20  # bytes


def read(release: Sequence[Original], folder: Path) -> dict[str, bytes]:
    """Reads a release from a folder: a dict from the last part of each inner path to its bytes.

    Each original may lie there as published, or, where the digests of what is inside are known, as
    these files: plain, .gz or .xz.

    Raises:
        FileNotFoundError: an original is there in neither form.
        ValueError: a file has another SHA-256 than it should, or cannot be unpacked.
    """
    contents = {}
    for original in release:
        digests = {PurePosixPath(path).name: digest for path, digest in original.contents.items()}
        unpacked = {name: _find(folder, name) for name, digest in digests.items() if digest}
        absent = [name for name in digests if not unpacked.get(name)]
        if not absent:
            contents |= {name: _unpack(path) for name, path in unpacked.items()}
            sources = unpacked
        elif (folder / original.name).is_file():
            contents |= _open_original(original, folder / original.name)
            sources = dict.fromkeys(digests, folder / original.name)
        else:
            alternative = f", nor its {', '.join(absent)} (plain, .gz or .xz)" if unpacked else ""
            raise FileNotFoundError(f"{folder} does not have {original.name}{alternative}.")
        for name, digest in digests.items():
            if digest:
                check_sha256(f"{sources[name]} ({name})", contents[name], digest)
    return contents


def check_sha256(what: str | Path, content: bytes, expected: str) -> None:
    """Raises a ValueError that names `what` if its content is not the expected one."""
    got = hashlib.sha256(content).hexdigest()
    if got != expected:
        raise ValueError(
            f"{what} is not the original: expected sha256 {expected}, got {got}; remove it and "
            "fetch it again."
        )


def _find(folder: Path, name: str) -> Path | None:
    candidates = (folder / f"{name}{suffix}" for suffix in OPENERS)
    return next((path for path in candidates if path.is_file()), None)


def _unpack(path: Path) -> bytes:
    try:
        with OPENERS.get(path.suffix, open)(path, "rb") as file:
            return file.read()
    except (gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _open_original(original: Original, path: Path) -> dict[str, bytes]:
    packed = path.read_bytes()
    check_sha256(path, packed, original.sha256)
    if not path.name.endswith(".tar.gz"):
        (name,) = original.contents
        return {name: _unpack(path)}
    try:
        # Members are read by name into memory: no path of an archive ever reaches the disk.
        with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as archive:
            return {
                PurePosixPath(inner).name: archive.extractfile(inner).read()
                for inner in original.contents
            }
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, KeyError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def download(release: Sequence[Original], folder: Path) -> None:
    """Brings the originals that `folder` lacks, each from the first URL that has the right file.

    A file appears under its name when it is complete and its SHA-256 is right. An interrupted
    download is continued by the next call.

    Raises:
        ConnectionError: no URL of a file worked; the message has the reason for each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for original in release:
        path = folder / original.name
        partial = folder / f"{original.name}.part"
        problems = []
        for url in original.urls if not path.exists() else ():
            try:
                _fetch(url, partial)
                check_sha256(url, partial.read_bytes(), original.sha256)
            except ValueError as error:
                partial.unlink()
                problems.append(str(error))
            except (OSError, http.client.HTTPException) as error:
                problems.append(f"{url}: {error}")
            else:
                partial.replace(path)
                break
        if not path.exists():
            raise ConnectionError(
                f"Could not download {original.name} ({'; '.join(problems)}); run this again, or "
                "get the file by other means and name its folder by --raw_dir."
            )


def _fetch(url: str, partial: Path) -> None:
    """Appends to `partial` what it lacks of the file, or all of it if the server has no ranges."""
    start = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        if start and error.code == 416:  # nothing is left after `start`: the digest decides
            return
        raise
    with response:
        resumed = response.status == 206
        length = response.headers.get("Content-Length")
        total = int(length) + start * resumed if length else None
        progress = tqdm(
            desc=url.rsplit("/", 1)[-1],
            total=total,
            initial=start * resumed,
            unit="B",
            unit_scale=True,
            disable=None,
        )
        with partial.open("ab" if resumed else "wb") as file, progress:
            while block := response.read(BLOCK):
                file.write(block)
                progress.update(len(block))
    if total is not None and partial.stat().st_size < total:
        raise ConnectionError(
            f"the connection ended after {partial.stat().st_size} of {total} bytes"
        )
