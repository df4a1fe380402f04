"""Reads and writes the files of a run: strict JSON, JSON lines, arrays with a checksum.

Whatever is wrong with a file is a `RunError` that names it and says what to do, so that it is the damage of that run
alone.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from .._errors import RunError
from .._files import check_opens, in_one_line, irregular, json_lines, read_bytes, write_json_lines
from .._schema import parsed, typed, typed_line
from .naming import RUN_NAME

#: What a run lacks without one of the files that no number depends on.
SPARE = {"timings.jsonl": "the seconds that it took", "snapshots.safetensors": "the samples that its page shows"}

#: The key of the arrays' checksum in a .safetensors file's metadata.
CHECKSUM = "sha256"


def damaged(path: Path, reason: object) -> RunError:
    """Returns the error for a file of a run that was read and found damaged."""
    remedy = (
        f"delete {path}, the run is whole but for {SPARE[path.name]}" if path.name in SPARE else _remedy(path.parent)
    )
    return RunError(f"{path} is damaged ({reason}); {remedy}")


def unreadable(path: Path, error: Exception) -> RunError:
    """Returns the error for a file or folder that the system does not let this process read."""
    why = getattr(error, "strerror", None) or in_one_line(error)
    return RunError(f"{path} cannot be read ({why}); check its permissions, the memory and the disk")


def missing(path: Path) -> RunError:
    """Returns the error for a file that a run lacks."""
    return RunError(f"{path} is missing; {_remedy(path.parent)}")


def _remedy(folder: Path) -> str:
    """Returns what to do about a damaged run. Only a folder that bears a run's name may be deleted."""
    is_runs_own = RUN_NAME.fullmatch(folder.absolute().name)
    return f"delete {folder} to run it again" if is_runs_own else "bring back a copy, or name the folder of another run"


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns whatever goes wrong while a file is read into one `RunError`. Each format has its own ways to fail."""
    try:
        yield
    except (RunError, NameError, ImportError, AssertionError):  # the last three are faults of this package
        raise
    except (OSError, MemoryError) as error:  # the file may be whole
        raise unreadable(path, error) from error
    except Exception as error:
        raise damaged(path, in_one_line(error)) from error


def read_json(path: Path, hint: Any) -> Any:
    """Returns the value in a .json file, which must be of this type, or None if there is no file."""
    with reading(path):
        return typed(hint, parsed(read_bytes(path))) if path.exists() else None


def read_lines(
    path: Path, hint: Mapping[str, Any], further: Callable[[str], Any] = lambda key: Any
) -> list[dict[str, Any]]:
    """Returns the objects of a .jsonl file, which must have these keys; all values are numbers or lists of them.

    `further` returns the type of any key.
    """
    with reading(path):
        return [
            {
                key: _number(value, f"line {number}: {key}", further(key))
                for key, value in typed_line(hint, line, number).items()
            }
            for number, line in json_lines(path)
        ]


def _number(value: Any, key: str, hint: Any = Any) -> Any:
    """Returns a number, None or a list of numbers; what `to_json` wrote as a string becomes a number again."""
    typed(hint, value, key)
    if isinstance(value, list):
        return [inner if type(inner) is float else _number(inner, key) for inner in value]
    if value is None or isinstance(value, bool | float):
        return value
    number = typed(float, value, key)
    return value if isinstance(value, int) else number


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Writes the objects to a .jsonl file, one on each line."""
    write_json_lines(path, map(dict, lines))


def read_arrays(path: Path, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """Returns the arrays in a .safetensors file, as `read_whole` reads them."""
    return read_whole(path, names, "np", lambda array: np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def read_whole(
    path: Path, names: Iterable[str] | None, framework: str, raw: Callable[[Any], np.ndarray]
) -> dict[str, Any]:
    """Returns the arrays with these names, or all, in a .safetensors file; an empty dict if there is no file.

    Raises `RunError` if the file is damaged. When all arrays are read, they are compared with the checksum that was
    written with them, if there is one; `raw` returns the bytes of an array.
    """
    with reading(path):
        if not path.exists():
            return {}
        if kind := irregular(path):
            raise damaged(path, f"it is {kind}, not a file")
        check_opens(path)
        with safetensors.safe_open(path, framework=framework) as file:
            arrays = {name: file.get_tensor(name) for name in (file.keys() if names is None else names)}
            written = (file.metadata() or {}).get(CHECKSUM)
        if names is None and written is not None and written != checksum(arrays, raw):
            raise damaged(path, "its checksum does not match")
    return arrays


def checksum(arrays: Mapping[str, Any], raw: Callable[[Any], np.ndarray]) -> str:
    """Returns the SHA-256 of names, types, shapes and bytes.

    safetensors itself notices that a file was cut, but not that a bit has changed.
    """
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        kind = str(array.dtype).removeprefix("torch.")
        digest.update(f"{name} torch.{kind} {tuple(array.shape)}".encode())
        digest.update(raw(array).data)
    return digest.hexdigest()
