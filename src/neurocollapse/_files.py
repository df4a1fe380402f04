"""Reads and writes files: regular ones alone, whole or not at all; strict JSON, and the arrays of .npz files."""

import errno
import glob
import json
import math
import mmap
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, overload

from ._errors import InputError, NeurocollapseError, WriteError

if TYPE_CHECKING:  # a command that reads no arrays starts without NumPy
    import zipfile

    import numpy as np
    from numpy.typing import NDArray


#: No file that is read as text is larger: the records of the longest run take a few megabytes.
LARGEST_TEXT = 2**28

#: A file is refused that would unpack to more bytes than the first, and to more times its own size than the second.
_SMALL, _LARGEST_RATIO = 2**26, 100

_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


def irregular(path: Path) -> str | None:
    """Returns what the path leads to if that exists and is no regular file: a folder, a pipe, a socket or a device."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    return None if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "a device")


def check_opens(path: Path) -> None:
    """Raises the system's `OSError` for a file that cannot be opened; safetensors says that it is not there."""
    with path.open("rb"):
        pass


def read_bytes(path: Path) -> bytes:
    """Returns the content of a regular file. Raises `InputError` for anything else, which could block or never end."""
    if kind := irregular(path):
        raise InputError(f"it is {kind}, not a file")
    if (size := path.stat().st_size) > LARGEST_TEXT:
        raise InputError(f"its {size} bytes are beyond reason")
    return path.read_bytes()


def check_replaceable(path: Path, *marks: bytes) -> None:
    """Raises `WriteError` for a file that is somebody else's: it is not empty and has none of these marks.

    Every file that this package writes under a name of its own choice has one of its marks. Without marks, or without a
    file, nothing is checked; whatever is no regular file, such as /dev/null, is never replaced.
    """
    try:
        if kind := irregular(path):
            raise FileExistsError(errno.EEXIST, f"it is {kind}, not a file")
        if marks and path.exists() and path.stat().st_size:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                if all(content.find(mark) < 0 for mark in marks):
                    raise FileExistsError(errno.EEXIST, "it is there, and neurocollapse did not write it")
    except OSError as error:
        raise WriteError(path, error) from error


@contextmanager
def atomic_path(path: Path, *marks: bytes) -> Iterator[Path]:
    """Yields a path beside `path` to write to; it replaces `path` if the block succeeds, and is removed otherwise.

    Several processes may write the same file at once, and any of them may be killed. A link is followed. A file that
    was there keeps its permissions; a new one has those that the umask leaves. Raises `WriteError` for every `OSError`,
    also for one in the block, and for what is not `check_replaceable`.
    """
    check_replaceable(path, *marks)
    try:
        path = Path(os.path.realpath(path))
        temporary = path.with_name(f".{path.stem}-{secrets.token_hex(8)}{path.suffix}")
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))  # less the umask
        mode = stat.S_IMODE((path if path.exists() else temporary).stat().st_mode)
        try:
            yield temporary
            temporary.chmod(mode)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise WriteError(path, error) from error


@overload
def path_of(given: Path | str, kind: type[NeurocollapseError] = InputError) -> Path: ...
@overload
def path_of(given: None, kind: type[NeurocollapseError] = InputError) -> None: ...
def path_of(given: Path | str | None, kind: type[NeurocollapseError] = InputError) -> Path | None:
    """Returns the path that a user means, if any: ~ and ~name at its beginning are home folders.

    Raises an error of type `kind` for what no file or folder can be called, such as an empty name.
    """
    if given is None:
        return None
    if given == "":
        raise kind("the name of a file or folder is empty; use . for the current folder")
    path = Path(os.path.expanduser(given))  # unlike that of pathlib, this leaves the name of no user alone
    try:
        path.stat()
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError) or error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            fault = getattr(error, "strerror", None) or in_one_line(error)
            raise kind(f"{str(given)!r} cannot be opened ({fault}); check the path") from error
    return path


def matching(
    patterns: Iterable[Path | str],
    kind: type[NeurocollapseError],
    remedy: str,
    what: str,
    counts: Callable[[Path], Any],
) -> list[Path]:
    """Returns what patterns such as `epoch_*.pt` match and what `counts`, numbers sorted as such.

    Raises an error of type `kind` if one of them matches nothing, or only folders without `what` they are to hold.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        whole = path_of(pattern, kind)
        named = [whole] if whole.exists() else [Path(path) for path in sorted(glob.glob(str(whole)))]
        matches = [path for path in named if counts(path)]
        if not matches:
            if empty := [path for path in named if path.is_dir()]:
                raise kind(f"{empty[0]} is a folder without {what}; {remedy}")
            raise kind(f"no file matches {str(pattern)!r}; {remedy}")
        found |= dict.fromkeys(matches)
    return sorted(found, key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Returns a key that sorts epoch_9 before epoch_10."""
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def write_text(path: Path, text: str, *marks: bytes) -> None:
    """Writes the text to a file, whole or not at all, unless the file is somebody else's: see `check_replaceable`."""
    with atomic_path(path, *marks) as temporary:
        temporary.write_text(text, encoding="utf-8")


def to_json(value: Any, **options: Any) -> str:
    """Returns strict JSON; numbers that JSON lacks become the strings "nan", "inf", "-inf"."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [plain(inner) for inner in value]
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(plain(value), allow_nan=False, ensure_ascii=False, **options)


def json_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yields the lines of a .jsonl file with their numbers; none if there is no file.

    The lines are bytes, since a line may be cut within a character, and `str.splitlines` also splits at characters that
    JSON may hold.
    """
    content = read_bytes(path) if path.exists() else b""
    yield from enumerate(content.removesuffix(b"\n").split(b"\n") if content else (), start=1)


def write_json_lines(path: Path, values: Iterable[Any]) -> None:
    """Writes each value as one line of JSON."""
    write_text(path, "".join(to_json(value) + "\n" for value in values))


def check_unpacked(path: Path, declared: int, kind: type[NeurocollapseError]) -> None:
    """Raises an error if a file or folder declares a size beyond reason, which may be made to fill the memory."""
    parts = path.rglob("*") if path.is_dir() else [path]
    size = sum(part.stat().st_size for part in parts)
    if declared > _SMALL and declared > _LARGEST_RATIO * size:
        raise kind(
            f"{path} has {size} bytes and would unpack to {declared}, which is beyond reason; if it is meant, save it "
            f"uncompressed"
        )


def read_npz(
    path: Path, names: Sequence[str], kind: type[NeurocollapseError]
) -> "tuple[dict[str, NDArray[Any]], list[str]]":
    """Returns the arrays of these names that are in an .npz file, and the names of all arrays in it.

    Nothing is unpickled, and other arrays are not read. Sizes are checked before anything is unpacked. Raises an error
    of type `kind` for a file that is absent, damaged or not an .npz, and for an array that does not hold real numbers;
    its message proposes to save the first two names.
    """
    import numpy as np

    remedy = f"save plain numeric arrays with numpy.savez(path, {names[0]}=..., {names[1]}=...)"
    try:
        if what := irregular(path):
            raise kind(f"{path} is {what}, not a file; name an .npz file")
        with path.open("rb") as file:
            _check_is_npz(file, path, kind, remedy)
            with np.load(file, allow_pickle=False) as archive:
                if twice := [name for name in names if archive.files.count(name) > 1]:
                    raise kind(
                        f"{path} has {archive.files.count(twice[0])} arrays that are called {twice[0]!r}; {remedy}"
                    )
                wanted = [name for name in names if name in archive.files]
                members = {name: _member(archive, name) for name in wanted}
                check_unpacked(path, sum(member.file_size for member in members.values()), kind)
                arrays = {name: _read_array(path, archive, name, members[name], kind) for name in wanted}
                return arrays, list(archive.files)
    except kind:
        raise
    except FileNotFoundError:
        raise kind(f"there is no file {path}; check the path") from None
    except PermissionError as error:
        raise kind(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    except Exception as error:  # zipfile, NumPy and each way of compression have their own
        raise kind(f"{path} cannot be read ({in_one_line(error)}); {remedy}") from error


def _check_is_npz(file: IO[bytes], path: Path, kind: type[NeurocollapseError], remedy: str) -> None:
    import zipfile

    start = file.read(4)
    if not start:
        raise kind(f"{path} is empty; {remedy}")
    if not start.startswith(b"PK"):
        fault = "holds a bare array, so it is not" if start == b"\x93NUM" else "is not"
        raise kind(f"{path} {fault} an .npz file (it starts with the bytes {start!r}); {remedy}")
    if not zipfile.is_zipfile(file):
        raise kind(f"{path} is truncated or damaged (a zip file without its end); make or copy it again")
    file.seek(0)


def _member(archive: "np.lib.npyio.NpzFile", name: str) -> "zipfile.ZipInfo":
    members = archive.zip.NameToInfo  # type: ignore[union-attr]
    return members.get(f"{name}.npy") or members[name]


def _read_array(
    path: Path, archive: "np.lib.npyio.NpzFile", name: str, member: "zipfile.ZipInfo", kind: type[NeurocollapseError]
) -> "NDArray[Any]":
    try:
        _check_header(archive, member)
        array = archive[name]
    except MemoryError as error:
        raise kind(
            f"array {name!r} in {path} does not fit in memory ({in_one_line(error)}); save a part of it"
        ) from error
    except Exception as error:
        raise InputError(f"array {name!r}: {in_one_line(error)}") from error
    dtype = getattr(array, "dtype", None)  # None if a member of the archive is not in NumPy's format
    if dtype is None or dtype.kind not in "buif":
        raise InputError(f"array {name!r} does not hold real numbers" + (f" but {dtype}" if dtype else ""))
    return array


def _check_header(archive: "np.lib.npyio.NpzFile", member: "zipfile.ZipInfo") -> None:
    """Raises `InputError` if the array's header promises another size than its place in the archive has.

    NumPy would set aside what the header promises.
    """
    from numpy.lib import format as npy

    with archive.zip.open(member) as stream:  # type: ignore[union-attr]
        if stream.read(len(npy.MAGIC_PREFIX)) != npy.MAGIC_PREFIX:
            return
        stream.seek(0)
        read = npy.read_array_header_1_0 if npy.read_magic(stream) == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(stream)
        promised, there = math.prod(shape) * dtype.itemsize, member.file_size - stream.tell()
    if dtype.hasobject:
        raise InputError("it holds Python objects, not numbers")
    if promised != there and min(shape, default=0) >= 0:  # NumPy refuses the others itself
        raise InputError(f"its header promises {promised} bytes, shape {shape} of {dtype}, and {there} follow")


def in_one_line(error: Exception) -> str:
    """Returns the message of an error in one line, or its class if it has none."""
    return " ".join(str(error).split()) or type(error).__name__
