"""Writes files whole or not at all, writes strict JSON, and reads the arrays of .npz files."""

import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._errors import InputError, NeurocollapseError, WriteError

if TYPE_CHECKING:  # a command that reads no arrays starts without NumPy
    import numpy as np
    from numpy.typing import NDArray


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` to write to; it replaces `path` if the block succeeds, and is removed otherwise.

    Several processes may write the same file at once, and any of them may be killed. Raises `WriteError` for every
    `OSError`, also for one in the block.
    """
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
        os.close(descriptor)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o644)  # mkstemp makes files that nobody else can read
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise WriteError(path, error) from error


def path_of(named: Path | str | None) -> Path | None:
    """Returns the path that a user may have named as a string, or None."""
    return None if named is None else Path(named)


def write_text(path: Path, text: str) -> None:
    """Writes the text to a file, whole or not at all."""
    with atomic_path(path) as temporary:
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
    content = path.read_bytes() if path.exists() else b""
    yield from enumerate(content.removesuffix(b"\n").split(b"\n") if content else (), start=1)


def write_json_lines(path: Path, values: Iterable[Any]) -> None:
    """Writes each value as one line of JSON."""
    write_text(path, "".join(to_json(value) + "\n" for value in values))


def read_npz(
    path: Path, names: Sequence[str], kind: type[NeurocollapseError]
) -> "tuple[dict[str, NDArray[Any]], list[str]]":
    """Returns the arrays of these names that are in an .npz file, and the names of all arrays in it.

    Nothing is unpickled, and other arrays are not read. Raises an error of type `kind` for a file that is absent,
    damaged or not an .npz, and for an array that does not hold real numbers; its message proposes to save the first two
    names.
    """
    import zipfile
    import zlib

    import numpy as np

    remedy = f"save plain numeric arrays with numpy.savez(path, {names[0]}=..., {names[1]}=...)"
    try:
        with path.open("rb") as file:
            start = file.read(4)
            if not start:
                raise kind(f"{path} is empty; {remedy}")
            if not start.startswith(b"PK"):
                fault = "holds a bare array, so it is not" if start == b"\x93NUM" else "is not"
                raise kind(f"{path} {fault} an .npz file (it starts with the bytes {start!r}); {remedy}")
            if not zipfile.is_zipfile(file):
                raise kind(f"{path} is truncated or damaged (a zip file without its end); make or copy it again")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                arrays = {name: _read_array(path, archive, name, kind) for name in names if name in archive.files}
                return arrays, list(archive.files)
    except kind:
        raise
    except FileNotFoundError:
        raise kind(f"there is no file {path}; check the path") from None
    # NumPy and zipfile raise these for arrays that are truncated, damaged, compressed in unknown ways, or pickled.
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError) as error:
        raise kind(f"{path} cannot be read ({_in_one_line(error)}); {remedy}") from error


def _read_array(
    path: Path, archive: "np.lib.npyio.NpzFile", name: str, kind: type[NeurocollapseError]
) -> "NDArray[Any]":
    try:
        array = archive[name]
    except MemoryError as error:
        raise kind(
            f"array {name!r} in {path} does not fit in memory ({_in_one_line(error)}); save a part of it"
        ) from error
    except Exception as error:
        raise InputError(f"array {name!r}: {_in_one_line(error)}") from error
    dtype = getattr(array, "dtype", None)  # None if a member of the archive is not in NumPy's format
    if dtype is None or dtype.kind not in "buif":
        raise InputError(f"array {name!r} does not hold real numbers" + (f" but {dtype}" if dtype else ""))
    return array


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
