"""Reads and writes tensors of a run in .safetensors files with a checksum."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from .._files import atomic_path
from ..measuring import objective_of
from .files import CHECKSUM, checksum, damaged, read_whole
from .folder import RunFolder


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Returns all tensors in a .safetensors file, as `read_whole` reads them."""
    return read_whole(path, None, "pt", _raw)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors to a .safetensors file with a checksum, whole or not at all."""
    with atomic_path(path) as temporary:
        # Copies, since safetensors refuses tensors that share memory, as tied weights do.
        copies = {key: t.detach().clone(memory_format=torch.contiguous_format) for key, t in tensors.items()}
        # Not save_file, which writes a temporary file of its own that would stay if the process were killed.
        temporary.write_bytes(safetensors.torch.save(copies, metadata={CHECKSUM: checksum(copies, _raw)}))


def load_weights(model: nn.Module, folder: RunFolder) -> None:
    """Loads the last weights of a finished run into its network.

    Raises `RunError` if they are not of this network, or their norms not those of the last record.
    """
    path = folder.path / "model.safetensors"
    try:
        model.load_state_dict(folder.weights())
    except RuntimeError as error:
        fault = str(error).splitlines()[-1].strip()
        raise damaged(path, f"it is of another network than config.json says: {fault}") from error
    due, there = folder.records()[-1]["train.weight_norms"], objective_of(model, 0.0).weight_norms
    if any(not math.isclose(*norms, rel_tol=1e-4) for norms in zip(due, there, strict=False)):
        raise damaged(path, "it is of another run: the norms of its layers are not those of the last record")


def _raw(tensor: Tensor) -> np.ndarray:
    return tensor.cpu().contiguous().flatten().view(torch.uint8).numpy()


def model_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the network's own tensors in a `State`, by the names of its parameters."""
    prefix = "model."
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
