"""Reads the weights in a checkpoint, without running code in it."""

import pickle
import re
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from .._errors import CheckpointError
from .._files import check_opens, check_unpacked, irregular

#: The keys under which training scripts keep the weights beside the optimiser's state.
WEIGHT_KEYS = ("state_dict", "model_state_dict", "model")


def read_weights(path: Path) -> Mapping[str, Any]:
    """Returns the state_dict in a .safetensors file, or in one that `torch.save` wrote. Raises `CheckpointError`."""
    if kind := irregular(path):
        raise CheckpointError(f"{path} is {kind}, not a file; name a file of weights")
    try:
        check_opens(path)
        if zipfile.is_zipfile(path):  # as torch.save writes them
            with zipfile.ZipFile(path) as archive:
                check_unpacked(path, sum(member.file_size for member in archive.infolist()), CheckpointError)
        if path.suffix.lower() == ".safetensors":
            return safetensors.torch.load_file(path)
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except (PermissionError, FileNotFoundError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror}); check the path and its permissions"
        ) from error
    except pickle.UnpicklingError as error:  # PyTorch's message is advice to trust the file
        _check_format(path)
        found = _kinds_beside_weights(path, error)
        if found and all(name.startswith("numpy.") for name in found):
            raise CheckpointError(
                f"{path} holds values of NumPy, for which PyTorch would run what the file says; save float(x) and "
                f"torch.from_numpy(x) in their place"
            ) from None
        kinds = ", ".join(found)
        fault = f"it holds {kinds}, which is no weight" if kinds else "it is no file of PyTorch"
        raise CheckpointError(f"{path} is damaged or holds more than weights ({fault}); save a state_dict") from None
    except Exception as error:  # each format has its own ways to say that a file is not whole
        _check_format(path)
        fault = f"it is no whole file of {'safetensors' if path.suffix.lower() == '.safetensors' else 'PyTorch'}"
        raise CheckpointError(f"{path} is damaged or holds more than weights ({fault}); save a state_dict") from error
    for key in WEIGHT_KEYS:
        if isinstance(saved, Mapping) and isinstance(saved.get(key), Mapping):
            saved = saved[key]
    if not isinstance(saved, Mapping) or not all(isinstance(name, str) for name in saved):
        raise CheckpointError(f"{path} holds {type(saved).__name__}, not a state_dict; save model.state_dict()")
    for name, value in saved.items():
        if not (isinstance(value, Tensor) or name.endswith("_extra_state")):
            kind = type(value).__name__
            raise CheckpointError(
                f"{path} is no state_dict: its {name!r} is {kind}, no tensor; save model.state_dict()"
            )
    return saved


#: What a file is in which no weights are found, by how it begins or what is in its archive, and what to do.
_BEGINNINGS = {b"version https://git-lfs": "a pointer of Git LFS, not the file; get it with git lfs pull"}
_MEMBERS = {
    ".npy": "a file of NumPy arrays; save torch.from_numpy(x) for each, in a .safetensors file",
    "/archive_format": "a program of torch.export; save the state_dict of the model from which it was made",
    "/constants.pkl": "a program of torch.jit; save the state_dict of the model from which it was made",
}


def _check_format(path: Path) -> None:
    """Raises `CheckpointError` for a file that is of some other known format."""
    names: list[str] = []
    with path.open("rb") as file, suppress(Exception):  # a damaged archive has its own ways to fail
        start = file.read(64)
        names = zipfile.ZipFile(file).namelist()
    found = [what for beginning, what in _BEGINNINGS.items() if start.startswith(beginning)]
    found += [what for ending, what in _MEMBERS.items() if any(name.endswith(ending) for name in names)]
    if found:
        raise CheckpointError(f"{path} is {found[0]}")


def _kinds_beside_weights(path: Path, error: pickle.UnpicklingError) -> list[str]:
    """Returns the names of the classes and functions for which `torch.load` refused the file; it executes nothing."""
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # a file in PyTorch's older format
        return re.findall(r"GLOBAL (\S+) was not an allowed", str(error))


def kind_of(value: object) -> str:
    """Says in words why a tensor could be no weight; an empty string for one of real numbers."""
    if not isinstance(value, Tensor) or is_lazy(value):
        return ""
    if value.is_meta:
        return "a tensor without data"
    if value.is_quantized:
        return "a quantized tensor"
    if value.is_nested:
        return "a nested tensor"
    if value.layout != torch.strided:
        return "a sparse tensor"
    return "a tensor of complex numbers" if value.is_complex() else ""
