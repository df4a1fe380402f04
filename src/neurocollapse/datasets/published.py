"""Finds the published files of a data set on disk or downloads them, and identifies them by checksum."""

import errno
import gzip
import hashlib
import io
import math
import os
import tarfile
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from .._errors import DatasetError
from .._files import in_one_line, irregular, path_of
from .downloading import Download
from .publications import PUBLICATIONS, Publication

with warnings.catch_warnings(action="ignore"):  # tqdm's, in a notebook without widgets, where its plain bar is enough
    import pooch


#: No published file unpacks to more bytes: EMNIST's byclass, the largest, has 547 million.
_LARGEST = 2**30

#: The bytes of an idx file's header with three axes.
_IDX_HEADER = 16


class Content(NamedTuple):
    """The unpacked bytes of a file, the place they came from, and the SHA-256 of the packed file that held them."""

    origin: str
    data: bytes
    packed: str = ""


def cache_folder() -> Path:
    """Returns the folder for downloads and parsed data: NEUROCOLLAPSE_CACHE, or the user's cache folder."""
    return path_of(os.environ.get("NEUROCOLLAPSE_CACHE") or pooch.os_cache("neurocollapse"))


def find(publication: Publication, data_dir: Path | None) -> dict[str, Content]:
    """Returns the files by name, packed or not; those not under `data_dir` are downloaded, into the cache without it.

    Of a publication in one archive, all files come from one place: their folder, or the archive.
    """
    folder, paths = (data_dir or cache_folder()) / publication.folder, dict[str, Path]()
    if data_dir is not None:
        folders = [data_dir / name for name in publication.folders]
        best, paths = max(((each, _present(each, publication)) for each in folders), key=lambda found: len(found[1]))
        folder = best if paths else folder
        if publication.archive and len(paths) < len(publication.contents):
            archives = [each / publication.archive for each in folders if (each / publication.archive).is_file()]
            if archives:
                return _unpack(archives[0], publication)
            _refuse(publication, folders, paths)
    if publication.archive and not paths:
        return _unpack(download(publication, publication.archive, folder), publication)
    for name in publication.contents:
        if name not in paths:
            paths[name] = download(publication, name if name in publication.downloads else f"{name}.gz", folder)
    return {name: _content(paths[name]) for name in publication.contents}


def _refuse(publication: Publication, folders: list[Path], paths: dict[str, Path]) -> None:
    """Raises `DatasetError` for a part of the unpacked files, or a version that is not read."""
    if paths:
        absent = sorted(publication.contents.keys() - paths.keys())
        place = next(iter(paths.values())).parent
        raise DatasetError(f"{place} has no {', '.join(absent)}; unpack {publication.archive} there again")
    pickled = [folder / name for folder in folders for name in publication.pickled if (folder / name).exists()]
    if pickled:
        raise DatasetError(
            f"{pickled[0]} is {publication.title}'s Python version, and pickled files are not read, since reading runs "
            f"code in them; put the binary version beside it, {publication.mirrors[0]}{publication.archive}"
        )


def compare_with_published(contents: dict[str, Content], publication: Publication) -> tuple[str, ...]:
    """Returns a note on the files that are not the published ones, as far as checksums are known.

    Raises `DatasetError` for a file that is another published one, of any data set.
    """
    published = {sha256: (each, name) for each in PUBLICATIONS.values() for name, sha256 in _checksums(each)}
    published |= {sha256: (publication, name) for name, sha256 in _checksums(publication)}
    unknown: dict[str, list[str]] = {}
    for name, content in contents.items():
        sums = [hashlib.sha256(content.data).hexdigest(), content.packed]
        if any(sha256 in sums for known, sha256 in _checksums(publication) if known in (name, publication.archive)):
            continue
        for owner, other in (published[sha256] for sha256 in sums if sha256 in published):
            remedy = "rename it back" if owner is publication else f"keep {owner.title} in a folder of its own"
            of = "" if owner is publication else f" of {owner.title}"
            raise DatasetError(f"{content.origin} is the published {other}{of} under another name; {remedy}")
        if publication.contents[name] or content.packed:
            unknown.setdefault("content" if publication.contents[name] else "file", []).append(name)
    return tuple(
        f"the {what} of {', '.join(names)} is not the published one (another SHA-256); used as it is"
        for what, names in unknown.items()
    )


def _checksums(publication: Publication) -> Iterator[tuple[str, str]]:
    """Yields the name of each file, unpacked, and what checksums it has, packed and unpacked."""
    yield from ((name, sha256) for name, sha256 in publication.contents.items() if sha256)
    for name, (_, sha256) in publication.downloads.items():
        yield name if name == publication.archive else name.removesuffix(".gz"), sha256


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


def _present(folder: Path, publication: Publication) -> dict[str, Path]:
    """Returns which of the files a folder has, packed or not."""
    paths = {}
    for name in publication.contents:
        # Some tools unpack to train-images.idx3-ubyte.
        spellings = [folder / f"{stem}{end}" for end in (".gz", "") for stem in (name, name.replace("-idx", ".idx"))]
        present = [path for path in spellings if path.is_file()]
        if present:
            paths[name] = present[0]
    return paths


def _content(path: Path) -> Content:
    """Reads a file, unpacked if it is packed. Raises `DatasetError`."""
    try:
        if kind := irregular(path):
            raise DatasetError(f"{path} is {kind}, not a file; name the folder of the published files")
        with path.open("rb") as file:
            data = _unpacked(file, path)
            file.seek(0)
            packed = hashlib.file_digest(file, "sha256").hexdigest() if _is_packed(file) else ""
    except DatasetError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:  # gzip's own errors have none
            raise DatasetError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
        raise DatasetError(f"{path} is truncated or damaged ({in_one_line(error)}); fetch it again") from error
    return Content(str(path), data, packed)


def _unpacked(file: Any, path: Path) -> bytes:
    """Returns the content of a file; of an idx file, at most a byte more than its header declares."""
    stream = gzip.GzipFile(fileobj=file) if _is_packed(file) else file
    most = _LARGEST
    if path.name.removesuffix(".gz").endswith("-ubyte"):
        most = min(most, idx_size(stream.read(_IDX_HEADER)))
        stream.seek(0)
    data = stream.read(most + 1)
    if len(data) > _LARGEST:
        raise DatasetError(f"{path} unpacks to more than {_LARGEST} bytes, which is beyond reason; fetch it again")
    return data


def _is_packed(file: Any) -> bool:
    # Decided by the first bytes: browsers unpack the files that they download and keep the name.
    start = file.read(2)
    file.seek(0)
    return start == b"\x1f\x8b"


def idx_size(header: bytes) -> int:
    """Returns the size that the header of an idx file of bytes declares, its own included; of another, a few bytes."""
    axes = header[3] if header[:3] == b"\0\0\x08" and 0 < header[3] <= 3 else 0
    lengths = [int.from_bytes(header[start : start + 4], "big") for start in range(4, 4 + 4 * axes, 4)]
    return 4 + 4 * axes + math.prod(lengths) if axes else _IDX_HEADER


def _unpack(archive: Path, publication: Publication) -> dict[str, Content]:
    """Reads the files of a publication from its archive. Raises `DatasetError`."""
    wanted, contents = publication.contents, dict[str, Content]()
    kind = "zip" if archive.suffix == ".zip" else "tar.gz"
    data, packed = (b"", "") if kind == "zip" else _content(archive)[1:]
    try:
        if kind == "zip":
            with archive.open("rb") as whole:
                packed = hashlib.file_digest(whole, "sha256").hexdigest()
            with zipfile.ZipFile(archive) as zipped:
                for info in zipped.infolist():
                    name = PurePosixPath(info.filename).name.removesuffix(".gz")
                    if name in wanted:
                        with zipped.open(info) as file:
                            contents[name] = Content(f"{archive}/{info.filename}", _unpacked(file, Path(name)), packed)
        else:
            with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as members:
                for member in members:
                    name = PurePosixPath(member.name).name
                    held = members.extractfile(member) if name in wanted and member.isfile() else None
                    if held is not None:
                        contents[name] = Content(f"{archive}/{member.name}", held.read(), packed)
    except DatasetError:
        raise
    except Exception as error:
        raise DatasetError(
            f"{archive} is truncated or damaged, or no {kind} file ({in_one_line(error)}); fetch it again"
        ) from error
    if absent := sorted(wanted.keys() - contents.keys()):
        raise DatasetError(
            f"{archive} has no {', '.join(absent)} in it; fetch {publication.title}'s {archive.name} again"
        )
    return {name: contents[name] for name in wanted}
