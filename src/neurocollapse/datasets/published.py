"""Finds the published files of MNIST and CIFAR-10 on disk or downloads them, and identifies them by checksum."""

import errno
import gzip
import hashlib
import io
import math
import os
import tarfile
import warnings
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from .._errors import DatasetError
from .._files import in_one_line, irregular, path_of
from .downloading import Download

with warnings.catch_warnings(action="ignore"):  # tqdm's, in a notebook without widgets, where its plain bar is enough
    import pooch


@dataclass(frozen=True)
class Publication:
    """The published files of one data set, with their addresses and checksums."""

    mirrors: tuple[str, ...]  # address = mirror + file name; tried in turn
    downloads: dict[str, tuple[int, str]]  # file name: size in bytes, SHA-256
    contents: dict[str, str]  # name of a file once unpacked: SHA-256
    folders: tuple[str, ...]  # under the user's data folder, where various tools put them


MNIST = Publication(
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    downloads={
        "train-images-idx3-ubyte.gz": (
            9_912_422,
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        "train-labels-idx1-ubyte.gz": (
            28_881,
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
        "t10k-images-idx3-ubyte.gz": (
            1_648_877,
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
        "t10k-labels-idx1-ubyte.gz": (
            4_542,
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    },
    contents={
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    folders=("", "mnist", "MNIST/raw", "mnist/MNIST/raw", "MNIST", "raw"),
)

CIFAR10 = Publication(
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
    folders=tuple(
        f"{parent}{child}"
        for parent in ("", "cifar10/", "CIFAR10/", "cifar-10/")
        for child in ("", "cifar-10-batches-bin")
    ),
)
CIFAR10_ARCHIVE = "cifar-10-binary.tar.gz"
CIFAR10_PICKLED = ("cifar-10-batches-py", "cifar-10-python.tar.gz")


#: No published file unpacks to more bytes: CIFAR-10's archive, the largest, has 184 million.
_LARGEST = 2**28

#: The bytes of an idx file's header with three axes.
_IDX_HEADER = 16


class Content(NamedTuple):
    """The unpacked bytes of a file, and the place they came from."""

    origin: str
    data: bytes


def cache_folder() -> Path:
    """Returns the folder for downloads and parsed data: NEUROCOLLAPSE_CACHE, or the user's cache folder."""
    return path_of(os.environ.get("NEUROCOLLAPSE_CACHE") or pooch.os_cache("neurocollapse"))


def find_mnist(data_dir: Path | None) -> dict[str, Content]:
    """Returns the four files by name, compressed or not; those not under `data_dir` are downloaded beside the rest."""
    folder = cache_folder() / "mnist"
    paths: dict[str, Path] = {}
    if data_dir is not None:
        candidates = [(data_dir / name, _mnist_paths(data_dir / name)) for name in MNIST.folders]
        folder, paths = max(candidates, key=lambda candidate: len(candidate[1]))
        if not paths:
            folder = data_dir / "mnist"
    for name in MNIST.contents:
        if name not in paths:
            paths[name] = download(MNIST, f"{name}.gz", folder)
    return {name: Content(str(path), _read_idx(path)) for name, path in paths.items()}


def find_cifar10(data_dir: Path | None) -> dict[str, Content]:
    """Returns the six binary batches by name, from their folder or from the published archive."""
    if data_dir is None:
        return _unpack(download(CIFAR10, CIFAR10_ARCHIVE, cache_folder() / "cifar10"))
    folders = [data_dir / name for name in CIFAR10.folders]
    batches = max(
        ([folder / name for name in CIFAR10.contents if (folder / name).is_file()] for folder in folders), key=len
    )
    if len(batches) == len(CIFAR10.contents):
        return {path.name: Content(str(path), _read(path)) for path in batches}
    archives = [folder / CIFAR10_ARCHIVE for folder in folders if (folder / CIFAR10_ARCHIVE).is_file()]
    if archives:
        return _unpack(archives[0])
    if batches:
        absent = sorted(CIFAR10.contents.keys() - {path.name for path in batches})
        raise DatasetError(f"{batches[0].parent} has no {', '.join(absent)}; unpack {CIFAR10_ARCHIVE} there again")
    pickled = [folder / name for folder in folders for name in CIFAR10_PICKLED if (folder / name).exists()]
    if pickled:
        raise DatasetError(
            f"{pickled[0]} is CIFAR-10's Python version, and pickled files are not read, since reading runs code in "
            f"them; put the binary version beside it, {CIFAR10.mirrors[0]}{CIFAR10_ARCHIVE}"
        )
    return _unpack(download(CIFAR10, CIFAR10_ARCHIVE, data_dir / "cifar10"))


def compare_with_published(contents: dict[str, Content], publication: Publication) -> tuple[str, ...]:
    """Returns a note on the files whose content is not the published one.

    Raises `DatasetError` for a file whose content is that of another published file.
    """
    names = {sha256: name for name, sha256 in publication.contents.items()}
    unknown = []
    for name, content in contents.items():
        sha256 = hashlib.sha256(content.data).hexdigest()
        if sha256 not in names:
            unknown.append(name)
        elif names[sha256] != name:
            raise DatasetError(f"{content.origin} is the published {names[sha256]} under another name; rename it back")
    if not unknown:
        return ()
    return (f"the content of {', '.join(unknown)} is not the published one (another SHA-256); used as it is",)


def download(publication: Publication, name: str, folder: Path) -> Path:
    """Downloads a file into `folder`, whole or not at all, unless it is already there with the right checksum."""
    size, sha256 = publication.downloads[name]
    failures = []
    for mirror in publication.mirrors:
        try:
            if kind := irregular(folder / name):
                raise OSError(errno.EEXIST, f"{folder / name} is {kind}, not a file")
            known = f"sha256:{sha256}"
            return Path(pooch.retrieve(mirror + name, known, fname=name, path=folder, downloader=Download(size)))
        except (OSError, ValueError) as error:  # requests and disks raise OSError; pooch raises ValueError
            failures.append(f"{mirror} ({_reason(error)})")
    raise DatasetError(
        f"{name} ({size / 1e6:.3g} MB) is not in {folder} and could not be downloaded from "
        f"{', nor from '.join(failures)}; fetch it by other means and put the files into data_dir"
    )


def _reason(error: Exception) -> str:
    if isinstance(error, ValueError):
        return "the downloaded file has another checksum"
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP status {response.status_code}"
    return getattr(error, "strerror", None) or type(error).__name__


def _mnist_paths(folder: Path) -> dict[str, Path]:
    paths = {}
    for name in MNIST.contents:
        # Some tools unpack to train-images.idx3-ubyte.
        spellings = [folder / f"{stem}{end}" for end in (".gz", "") for stem in (name, name.replace("-idx", ".idx"))]
        present = [path for path in spellings if path.is_file()]
        if present:
            paths[name] = present[0]
    return paths


def _read(path: Path, most: int = _LARGEST) -> bytes:
    """Returns the content of a file, unpacked if it is packed. It ends soon after `most` bytes."""
    try:
        if kind := irregular(path):
            raise DatasetError(f"{path} is {kind}, not a file; name the folder of the published files")
        with path.open("rb") as file:
            # Decided by the first bytes: browsers unpack the files that they download and keep the name.
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            data = (gzip.GzipFile(fileobj=file) if packed else file).read(min(most, _LARGEST) + 1)
    except DatasetError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:  # gzip's own errors have none
            raise DatasetError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
        raise DatasetError(f"{path} is truncated or damaged ({in_one_line(error)}); fetch it again") from error
    if len(data) > _LARGEST:
        raise DatasetError(f"{path} unpacks to more than {_LARGEST} bytes, which is beyond reason; fetch it again")
    return data


def _read_idx(path: Path) -> bytes:
    """Returns the content of an idx file, unpacked; at most a byte more than its header declares."""
    return _read(path, idx_size(_read(path, _IDX_HEADER)))


def idx_size(header: bytes) -> int:
    """Returns the size that the header of an idx file of bytes declares, its own included; of another, a few bytes."""
    axes = header[3] if header[:3] == b"\0\0\x08" and 0 < header[3] <= 3 else 0
    lengths = [int.from_bytes(header[start : start + 4], "big") for start in range(4, 4 + 4 * axes, 4)]
    return 4 + 4 * axes + math.prod(lengths) if axes else _IDX_HEADER


def _unpack(archive: Path) -> dict[str, Content]:
    contents = {}
    data = _read(archive)
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as members:
            for member in members:
                name = PurePosixPath(member.name).name
                file = members.extractfile(member) if name in CIFAR10.contents and member.isfile() else None
                if file is not None:
                    contents[name] = Content(f"{archive}/{member.name}", file.read())
    except Exception as error:
        raise DatasetError(
            f"{archive} is truncated or damaged, or no tar.gz file ({in_one_line(error)}); fetch it again"
        ) from error
    absent = sorted(CIFAR10.contents.keys() - contents.keys())
    if absent:
        raise DatasetError(f"{archive} has no {', '.join(absent)} in it; fetch the binary version of CIFAR-10 again")
    return contents
