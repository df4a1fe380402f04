"""Files of features: .npz or .safetensors with `features`, `labels` and, optionally, `weight`, `bias` and `ood`."""

import zipfile
import zlib
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

REQUIRED = ("features", "labels")
OPTIONAL = ("weight", "bias", "ood")


class FeatureFileError(ValueError):
    """A feature file that cannot be read; the message says what was wrong and what to do."""


def read_features(path: Path) -> dict[str, Tensor]:
    """The arrays of a feature file by name. Nothing is unpickled. Raises `FeatureFileError`."""
    readers = {".npz": _read_npz, ".safetensors": _read_safetensors}
    if path.suffix not in readers:
        raise FeatureFileError(f"{path} must end in .npz or .safetensors, to say which of the two it is")
    if not path.is_file():
        raise FeatureFileError(f"{path} is {'a folder' if path.is_dir() else 'not there'}; name a feature file")
    if not path.stat().st_size:
        raise FeatureFileError(f"{path} is empty; write it again")
    arrays = readers[path.suffix](path)
    missing = [name for name in REQUIRED if name not in arrays]
    if missing:
        raise FeatureFileError(
            f"{path} has no {' and no '.join(missing)} (it has: {', '.join(arrays) or 'nothing'}); "
            f"it needs features (samples, features) and labels (samples,)"
        )
    return {name: arrays[name] for name in (*REQUIRED, *OPTIONAL) if name in arrays}


def _read_npz(path: Path) -> dict[str, Tensor]:
    arrays: dict[str, Tensor] = {}
    try:
        with path.open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise FeatureFileError(f"{path} holds a bare array; save it with numpy.savez(features=..., labels=...)")
            for name in file.files:
                if name in REQUIRED + OPTIONAL:
                    arrays[name] = _as_tensor(path, name, file[name])
                else:
                    arrays[name] = torch.empty(0)  # not read: only its name matters, for the message
    except FeatureFileError:
        raise
    except ValueError as error:  # what NumPy says of an object array, or of a file that is no archive
        if "allow_pickle" in str(error) and zipfile.is_zipfile(path):
            raise FeatureFileError(f"{path} holds Python objects, which are not read; save plain numbers") from error
        raise FeatureFileError(f"{path} is not an .npz archive; save it with numpy.savez") from error
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, MemoryError) as error:
        raise FeatureFileError(f"{path} is truncated or damaged ({error}); write it again") from error
    return arrays


def _as_tensor(path: Path, name: str, array: np.ndarray | bytes) -> Tensor:
    if isinstance(array, bytes):  # what NumPy gives for a member of the archive that is not in its format
        raise FeatureFileError(f"{name} in {path} is no array; save the file with numpy.savez")
    if array.dtype.kind not in "fiu":
        raise FeatureFileError(f"{name} in {path} is an array of {array.dtype}; it must be numbers")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    return torch.from_numpy(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")))


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise FeatureFileError(f"{path} is not a whole safetensors file ({error}); write it again") from error
