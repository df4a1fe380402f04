"""The id of a run, and the software and hardware that its exact numbers depend on."""

import platform
from typing import Any

import numpy as np
import torch

from .._errors import RunError
from .._version import __version__
from ..datasets import Dataset
from ..metrics import DEFINITIONS_VERSION
from ..networks import Fingerprint
from ..training import DEFAULTS_VERSION, RunConfig
from .folder import RunFolder
from .naming import run_name


def run_id(config: RunConfig, dataset: Dataset) -> str:
    """Returns the name of the run's folder: see `run_name`."""
    return run_name(config, dataset.sha256)


def check_resumable(folder: RunFolder, dataset: Dataset, network: Fingerprint | None) -> None:
    """Raises `RunError` if a run that was started had other defaults, or is not the same: see `check_same`."""
    if folder.started:
        _compare(folder, {"defaults": DEFAULTS_VERSION})
        check_same(folder, dataset, network)


def check_same(folder: RunFolder, dataset: Dataset, network: Fingerprint | None) -> None:
    """Raises `RunError` if the run used other data, another network, or other definitions of the metrics."""
    described = folder.description
    _compare(folder, {"data_sha256": dataset.sha256, "definitions": DEFINITIONS_VERSION})
    then = described.get("network")
    if network is not None and then and not network.matches(Fingerprint(then["sha256"], tuple(then["outputs"]))):
        raise RunError(
            f"{folder.path} was made with another network: {described['config']['network']} has changed since; "
            f"change it back, or name another folder"
        )


def _compare(folder: RunFolder, wanted: dict[str, Any]) -> None:
    described = folder.description
    for name, now in wanted.items():
        if described.get(name) != now:
            raise RunError(
                f"{folder.path} was made with {name} {described.get(name)}, and now it is {now}; name another folder"
            )


def provenance(device: str) -> dict[str, Any]:
    """Returns the versions and hardware that the exact numbers of a run depend on, besides its configuration."""
    return {
        "neurocollapse": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "threads": torch.get_num_threads(),
    }
