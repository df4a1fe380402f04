"""Reads and writes the files of a run: strict JSON, JSON lines, arrays with a checksum.

A file that is not whole raises a `RunError` that says what to do.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from .._errors import InputError, RunError
from .._files import json_lines, write_json_lines

#: The key of the arrays' checksum in a .safetensors file's metadata.
CHECKSUM = "sha256"


def damaged(path: Path, reason: object) -> RunError:
    """Returns the error for a file of a run that cannot be read."""
    return RunError(f"{path} is damaged ({reason}); delete {path.parent} to run it again")


def missing(path: Path) -> RunError:
    """Returns the error for a file that a run lacks."""
    return RunError(f"{path} is missing; delete {path.parent} to run it again")


def read_json(path: Path, *keys: str) -> dict[str, Any] | None:
    """Returns the object in a .json file, which must have these keys, or None if there is no file."""
    if not path.exists():
        return None
    try:
        return _object(path.read_text(encoding="utf-8"), *keys)
    except (ValueError, OSError) as error:
        raise damaged(path, error) from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the objects of a .jsonl file; strings such as "nan" that `to_json` wrote become numbers again."""
    try:
        content = list(json_lines(path))
    except OSError as error:
        raise damaged(path, error) from error
    lines = []
    for number, line in content:
        try:
            values = _object(line.decode(), "epoch")
        except ValueError as error:
            raise damaged(path, f"line {number}: {error}") from error
        lines.append({key: _numbers(value) for key, value in values.items()})
    return lines


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Writes the objects to a .jsonl file, one on each line."""
    write_json_lines(path, map(dict, lines))


def _numbers(value: Any) -> Any:
    """Turns the strings that `to_json` wrote for numbers back into numbers."""
    if isinstance(value, list):
        return [_numbers(inner) for inner in value]
    return float(value) if value in ("nan", "inf", "-inf") else value


def _object(text: str, *keys: str) -> dict[str, Any]:
    values = json.loads(text)
    if not isinstance(values, dict) or any(key not in values for key in keys):
        raise InputError(f"it is not a JSON object{''.join(f' with {key!r}' for key in keys)}")
    return values


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
    if not path.exists():
        return {}
    try:
        with safetensors.safe_open(path, framework=framework) as file:
            arrays = {name: file.get_tensor(name) for name in (file.keys() if names is None else names)}
            written = (file.metadata() or {}).get(CHECKSUM)
    except (safetensors.SafetensorError, OSError) as error:
        raise damaged(path, error) from error
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
