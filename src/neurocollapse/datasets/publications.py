"""The published data sets by name: where their files are, how large they are, and their checksums.

Sizes and SHA-256 of what is downloaded are those that TensorFlow Datasets (`url_checksums/`) and torchvision (MD5 of
the same files) check too.
"""

import difflib
import os
import re
from dataclasses import dataclass

from .._errors import DatasetError


@dataclass(frozen=True)
class Publication:
    """The published files of one data set, with their addresses and checksums."""

    title: str
    mirrors: tuple[str, ...]  # address = mirror + file name; tried in turn
    downloads: dict[str, tuple[int, str]]  # file name: size in bytes, SHA-256
    # Name of a file once unpacked: SHA-256, or nothing where nobody publishes it. First the training split's.
    contents: dict[str, str]
    folder: str  # in the cache, or in the user's data folder, where downloads go
    folders: tuple[str, ...]  # under the user's data folder, where various tools put the files
    num_classes: int
    first_label: int = 0  # the label of class 0 in the files
    pickled: tuple[str, ...] = ()  # other versions of it, which are not read

    @property
    def archive(self) -> str | None:
        """The one download that holds all files, if there is one."""
        return next(iter(self.downloads)) if len(self.downloads) == 1 else None


_IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def _places(*names: str) -> tuple[str, ...]:
    """Returns the folders where data of these names are, torchvision's among them."""
    return tuple(f"{name}{inner}" for name in names for inner in ("", "/raw")) + tuple(
        f"{names[0]}/{name}/raw" for name in names[1:]
    )


MNIST = Publication(
    title="MNIST",
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    downloads={
        f"{_IDX[0]}.gz": (9_912_422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
        f"{_IDX[1]}.gz": (28_881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
        f"{_IDX[2]}.gz": (1_648_877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
        f"{_IDX[3]}.gz": (4_542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
    },
    contents={
        _IDX[0]: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        _IDX[1]: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        _IDX[2]: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        _IDX[3]: "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    folder="mnist",
    folders=("", "mnist", "MNIST/raw", "mnist/MNIST/raw", "MNIST", "raw"),
    num_classes=10,
)

FASHION_MNIST = Publication(
    title="Fashion-MNIST",
    mirrors=(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ),
    downloads={
        f"{_IDX[0]}.gz": (26_421_880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
        f"{_IDX[1]}.gz": (29_515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
        f"{_IDX[2]}.gz": (4_422_102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
        f"{_IDX[3]}.gz": (5_148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
    },
    contents=dict.fromkeys(_IDX, ""),
    folder="fashion_mnist",
    folders=(*_places("fashion_mnist", "FashionMNIST", "fashion-mnist"), "fashion-mnist/data/fashion", ""),
    num_classes=10,
)

KMNIST = Publication(
    title="KMNIST",
    mirrors=("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
    downloads={
        f"{_IDX[0]}.gz": (18_165_135, "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4"),
        f"{_IDX[1]}.gz": (29_497, "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17"),
        f"{_IDX[2]}.gz": (3_041_136, "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5"),
        f"{_IDX[3]}.gz": (5_120, "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c"),
    },
    contents=dict.fromkeys(_IDX, ""),
    folder="kmnist",
    folders=(*_places("kmnist", "KMNIST"), ""),
    num_classes=10,
)


def _emnist(split: str, num_classes: int, first_label: int = 0) -> Publication:
    """Returns one of the six splits of EMNIST, which share an archive."""
    places = _places("emnist", "EMNIST")
    return Publication(
        title=f"EMNIST ({split})",
        mirrors=("https://biometrics.nist.gov/cs_links/EMNIST/", "https://www.itl.nist.gov/iaui/vip/cs_links/EMNIST/"),
        downloads={"gzip.zip": (561_753_746, "fb9bb67e33772a9cc0b895e4ecf36d2cf35be8b709693c3564cea2a019fcda8e")},
        contents={
            f"emnist-{split}-{part}-{kind}-ubyte": ""
            for part in ("train", "test")
            for kind in ("images-idx3", "labels-idx1")
        },
        folder="emnist",
        folders=(*places, *(f"{place}/gzip" for place in places), "gzip", ""),
        num_classes=num_classes,
        first_label=first_label,
    )


CIFAR10 = Publication(
    title="CIFAR-10",
    mirrors=("https://www.cs.toronto.edu/~kriz/",),
    downloads={
        "cifar-10-binary.tar.gz": (
            170_052_171,
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        )
    },
    contents={
        "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
        "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
        "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
        "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
        "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
        "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
    },
    folder="cifar10",
    folders=tuple(
        f"{parent}{child}"
        for parent in ("", "cifar10/", "CIFAR10/", "cifar-10/")
        for child in ("", "cifar-10-batches-bin")
    ),
    num_classes=10,
    pickled=("cifar-10-batches-py", "cifar-10-python.tar.gz"),
)

CIFAR100 = Publication(
    title="CIFAR-100",
    mirrors=CIFAR10.mirrors,
    downloads={
        "cifar-100-binary.tar.gz": (
            168_513_733,
            "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        )
    },
    contents={"train.bin": "", "test.bin": ""},
    folder="cifar100",
    folders=tuple(
        f"{parent}{child}"
        for parent in ("cifar100/", "CIFAR100/", "cifar-100/", "")
        for child in ("", "cifar-100-binary")
    ),
    num_classes=100,
    pickled=("cifar-100-python", "cifar-100-python.tar.gz"),
)

SVHN = Publication(
    title="SVHN",
    mirrors=("http://ufldl.stanford.edu/housenumbers/",),
    downloads={
        "train_32x32.mat": (182_040_794, "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8"),
        "test_32x32.mat": (64_275_384, "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b"),
    },
    contents={
        "train_32x32.mat": "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
        "test_32x32.mat": "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
    },
    folder="svhn",
    folders=("svhn", "SVHN", "svhn/raw", ""),
    num_classes=10,
)

#: Every published data set by its name. `emnist` is its balanced split.
PUBLICATIONS = {
    "mnist": MNIST,
    "fashion_mnist": FASHION_MNIST,
    "kmnist": KMNIST,
    "emnist": _emnist("balanced", 47),
    "emnist_balanced": _emnist("balanced", 47),
    "emnist_byclass": _emnist("byclass", 62),
    "emnist_bymerge": _emnist("bymerge", 47),
    "emnist_letters": _emnist("letters", 26, first_label=1),
    "emnist_digits": _emnist("digits", 10),
    "emnist_mnist": _emnist("mnist", 10),
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
    "svhn": SVHN,
}

#: Every name that `load_dataset` knows, and the other things that it takes.
DATASETS = ("mnist5k", *PUBLICATIONS, "gaussian")
OTHER_DATA = "a path ending in .npz, a folder of images, hf:ID of Hugging Face, or module:function"


def unknown_data(name: str) -> DatasetError:
    """Returns the error for a name that is no data set."""
    close = difflib.get_close_matches(name.lower(), DATASETS, n=1)
    meant = f"; did you mean {close[0]!r}?" if close else ";"
    return DatasetError(f"unknown data set {name!r}{meant} the choices are {', '.join(DATASETS)}, or {OTHER_DATA}")


def check_data_name(name: str) -> None:
    """Raises `DatasetError` for a misspelt name of a data set, as far as a name tells it.

    Any other word may be a folder, or stand for data that are given later; so may a known name with something added.
    """
    plain = re.fullmatch(r"[\w-]+", name) and not any(name.startswith(known) for known in DATASETS)
    near = plain and difflib.get_close_matches(name.lower(), DATASETS, n=1, cutoff=0.8)
    if not name or (near and not os.path.isdir(name)):
        raise unknown_data(name)
