"""Reads and writes .npz and .safetensors files of `features`, `labels` and, optionally, `weight`, `bias`, `ood`."""

import difflib
import re
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from .._errors import FeatureFileError
from .._files import atomic_path, check_opens, in_one_line, irregular, read_npz

REQUIRED = ("features", "labels")
OPTIONAL = ("weight", "bias", "ood")


def read_features(path: Path) -> dict[str, Tensor]:
    """Returns the arrays of a feature file by name; a warning names those that are ignored. Nothing is unpickled.

    Raises `FeatureFileError`.
    """
    readers = {".npz": _read_npz, ".safetensors": _read_safetensors}
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise FeatureFileError(f"{path} must end in .npz or .safetensors, to say which of the two it is")
    if not path.is_file():
        raise FeatureFileError(f"{path} is {irregular(path) or 'not there'}; name a feature file")
    if not path.stat().st_size:
        raise FeatureFileError(f"{path} is empty; write it again")
    arrays = readers[suffix](path)
    missing = [name for name in REQUIRED if name not in arrays]
    if missing:
        raise FeatureFileError(
            f"{path} has no {' and no '.join(missing)} (it has: {', '.join(arrays) or 'nothing'}); "
            f"it needs features (samples, features) and labels (samples,)"
        )
    if ignored := [_with_hint(name, arrays) for name in arrays if name not in REQUIRED + OPTIONAL]:
        warnings.warn(f"{path}: ignored: {', '.join(ignored)}", stacklevel=2)
    return {name: arrays[name] for name in (*REQUIRED, *OPTIONAL) if name in arrays}


def _with_hint(name: str, there: Iterable[str]) -> str:
    close = difflib.get_close_matches(name.lower(), set(OPTIONAL) - set(there), n=1)
    return f"{name} (did you mean {close[0]}?)" if close else name


def _read_npz(path: Path) -> dict[str, Tensor]:
    arrays, there = read_npz(path, REQUIRED + OPTIONAL, FeatureFileError)
    # Other arrays matter only by name, for the message.
    return {name: _as_tensor(path, name, arrays[name]) if name in arrays else torch.empty(0) for name in there}


def _as_tensor(path: Path, name: str, array: np.ndarray) -> Tensor:
    if array.dtype.kind == "b":
        raise FeatureFileError(f"{name} in {path} is an array of bool; it must be numbers")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    return torch.from_numpy(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")))


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        check_opens(path)
        return safetensors.torch.load_file(path)
    except PermissionError as error:
        raise FeatureFileError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    except Exception as error:
        raise FeatureFileError(
            f"{path} is not a whole safetensors file ({in_one_line(error)}); write it again"
        ) from error


def write_features(path: Path, features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Writes a .safetensors file that `read_features` reads."""
    arrays = {"features": features, "labels": labels, "weight": weight, "bias": bias}
    with atomic_path(path) as temporary:
        try:
            safetensors.torch.save_file(
                {name: a.cpu().contiguous() for name, a in arrays.items() if a is not None}, temporary
            )
        except safetensors.SafetensorError as error:  # for example, of a full disk, which it names in words alone
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]) if number else None, str(error)) from error
