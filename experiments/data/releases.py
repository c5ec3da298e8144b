"""The original releases: the files, where they are, and what proves that a copy is the right one.

SHA-256 of a published file: as tensorflow-datasets registers it. Of what is inside one: computed
from such a file, or, for CIFAR-10, from copies that have the MD5 known of the archive's members.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Original(NamedTuple):
    """One file of a release, as its authors published it."""

    name: str
    sha256: str
    urls: tuple[str, ...]
    contents: dict[str, str | None]  # path inside -> its SHA-256, None if only the file's is known


def _idx(base_urls: Sequence[str], digests: dict[str, tuple[str, str | None]]) -> list[Original]:
    """The gzip-compressed IDX files of MNIST and of sets that follow its layout."""
    return [
        Original(
            f"{name}.gz", packed, tuple(f"{url}{name}.gz" for url in base_urls), {name: inside}
        )
        for name, (packed, inside) in digests.items()
    ]


_CIFAR10 = {
    "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
}

RELEASES = {
    "mnist": _idx(
        (
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
        ),
        {
            "train-images-idx3-ubyte": (
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            ),
            "train-labels-idx1-ubyte": (
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            ),
            "t10k-images-idx3-ubyte": (
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            ),
            "t10k-labels-idx1-ubyte": (
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            ),
        },
    ),
    "fashion_mnist": _idx(
        (
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        ),
        {
            "train-images-idx3-ubyte": (
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                None,
            ),
            "train-labels-idx1-ubyte": (
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                None,
            ),
            "t10k-images-idx3-ubyte": (
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                None,
            ),
            "t10k-labels-idx1-ubyte": (
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
                None,
            ),
        },
    ),
    "cifar10": [
        Original(
            "cifar-10-binary.tar.gz",
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
            {f"cifar-10-batches-bin/{name}": digest for name, digest in _CIFAR10.items()},
        )
    ],
    "cifar100": [
        Original(
            "cifar-100-binary.tar.gz",
            "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            ("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",),
            {
                "cifar-100-binary/train.bin": None,
                "cifar-100-binary/test.bin": None,
                "cifar-100-binary/fine_label_names.txt": None,
                "cifar-100-binary/coarse_label_names.txt": None,
            },
        )
    ],
}


def _ett(name: str, digest: str) -> Original:
    """A CSV of ETDataset, for which the digest of the file and of its contents are one."""
    url = f"https://raw.githubusercontent.com/zhouhaoyi/ETDataset/main/ETT-small/{name}"
    return Original(name, digest, (url,), {name: digest})


# Not images: these CSV files are used as they are. Their licence, CC BY-ND 4.0, asks for no less.
SERIES = {
    "etth1": _ett("ETTh1.csv", "f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066"),
    "ettm2": _ett("ETTm2.csv", "db973ca252c6410a30d0469b13d696cf919648d0f3fd588c60f03fdbdbadd1fd"),
}

_SHAKESPEARE = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"

# Texts, used as they are too: the file of char-rnn (Karpathy 2015).
TEXTS = {
    "tinyshakespeare": Original(
        "input.txt",
        _SHAKESPEARE,
        (
            "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/"
            "input.txt",
        ),
        {"input.txt": _SHAKESPEARE},
    )
}
