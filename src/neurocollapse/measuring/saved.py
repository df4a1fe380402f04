"""Reads what `torch.save` or safetensors wrote, without running code in it."""

import argparse
import pickle
import re
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from .._errors import NeurocollapseError
from .._files import check_opens, check_unpacked


def load_saved(path: Path, kind: type[NeurocollapseError], what: str, remedy: str, *, mapped: bool = False) -> Any:
    """Returns what a file holds, on the CPU; if `mapped`, its tensors are read when they are used.

    Raises an error of type `kind` if it is damaged, or holds more than things of the kind that `what` names.
    """
    safe = path.suffix.lower() == ".safetensors"
    try:
        check_opens(path)
        if zipped := zipfile.is_zipfile(path):  # as torch.save writes them
            with zipfile.ZipFile(path) as archive:
                check_unpacked(path, sum(member.file_size for member in archive.infolist()), kind)
        if safe:
            return safetensors.torch.load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # a script's options beside the weights
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=mapped and zipped)
    except kind:
        raise
    except (PermissionError, FileNotFoundError) as error:
        raise kind(f"{path} cannot be read ({error.strerror}); check the path and its permissions") from error
    except pickle.UnpicklingError as error:  # PyTorch's message is advice to trust the file
        _check_format(path, kind)
        found = _kinds_beside_tensors(path, error)
        if found and all(name.startswith("numpy.") for name in found):
            raise kind(
                f"{path} holds values of NumPy, for which PyTorch would run what the file says; save float(x) and "
                f"torch.from_numpy(x) in their place"
            ) from None
        fault = f"it holds {', '.join(found)}, which is no {what}" if found else "it is no file of PyTorch"
        raise kind(f"{path} is damaged or holds more than {what}s ({fault}); {remedy}") from None
    except Exception as error:  # each format has its own ways to say that a file is not whole
        _check_format(path, kind)
        fault = f"it is no whole file of {'safetensors' if safe else 'PyTorch'}"
        raise kind(f"{path} is damaged or holds more than {what}s ({fault}); {remedy}") from error


#: What a file is in which no tensors are found, by how it begins or what is in its archive, and what to do.
_BEGINNINGS = {b"version https://git-lfs": "a pointer of Git LFS, not the file; get it with git lfs pull"}
_EXPORTED = "a program of torch.export; save the state_dict of the model from which it was made"
_MEMBERS = {
    ".npy": "a file of NumPy arrays; save torch.from_numpy(x) for each, in a .safetensors file",
    "/archive_format": _EXPORTED,
    "serialized_exported_program.json": _EXPORTED,  # as earlier versions of PyTorch wrote it
    "/constants.pkl": "a program of torch.jit; save the state_dict of the model from which it was made",
}


def _check_format(path: Path, kind: type[NeurocollapseError]) -> None:
    """Raises an error of type `kind` for a file that is of some other known format."""
    names: list[str] = []
    with path.open("rb") as file, suppress(Exception):  # a damaged archive has its own ways to fail
        start = file.read(64)
        names = zipfile.ZipFile(file).namelist()
    found = [what for beginning, what in _BEGINNINGS.items() if start.startswith(beginning)]
    found += [what for ending, what in _MEMBERS.items() if any(name.endswith(ending) for name in names)]
    if found:
        raise kind(f"{path} is {found[0]}")


def _kinds_beside_tensors(path: Path, error: pickle.UnpicklingError) -> list[str]:
    """Returns the names of the classes and functions for which `torch.load` refused the file; it executes nothing."""
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # a file in PyTorch's older format
        return re.findall(r"GLOBAL (\S+) was not an allowed", str(error))
