"""Reads what `torch.save` or safetensors wrote, without running code in it."""

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from .._errors import NeurocollapseError
from .._files import check_opens, check_unpacked, in_one_line


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
        return torch.load(str(path), map_location="cpu", weights_only=True, mmap=mapped and zipped)
    except kind:
        raise
    except (PermissionError, FileNotFoundError) as error:
        raise kind(f"{path} cannot be read ({error.strerror}); check the path and its permissions") from error
    except pickle.UnpicklingError as error:  # PyTorch's message is advice to trust the file
        kinds = ", ".join(_kinds_beside_tensors(path, error))
        fault = f"it holds {kinds}, which is no {what}" if kinds else "it is no file of PyTorch's"
        raise kind(f"{path} is damaged or holds more than {what}s ({fault}); {remedy}") from None
    except Exception as error:  # each format has its own ways to say that a file is not whole
        fault = in_one_line(error) if safe else "it is no whole file of PyTorch's"
        raise kind(f"{path} is damaged or holds more than {what}s ({fault}); {remedy}") from error


def _kinds_beside_tensors(path: Path, error: pickle.UnpicklingError) -> list[str]:
    """Returns the names of the classes and functions for which `torch.load` refused the file; it executes nothing."""
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # a file in PyTorch's older format
        return re.findall(r"GLOBAL (\S+) was not an allowed", str(error))
