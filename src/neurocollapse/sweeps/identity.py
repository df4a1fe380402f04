"""The id of a run, and the software and hardware that its exact numbers depend on."""

import hashlib
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .._errors import RunError
from .._version import __version__
from ..datasets import Dataset
from ..metrics import DEFINITIONS_VERSION
from ..networks import Fingerprint
from ..training import RunConfig
from .files import read_json
from .folder import SCHEMA_VERSION, RunFolder


def run_id(config: RunConfig, dataset: Dataset) -> str:
    """Returns a readable name with a hash of the fields that differ from the defaults.

    Paths, device and threads do not enter. A data file counts by its content: moving it changes nothing, and editing it
    makes a different run.
    """
    different = config.changed
    if Path(config.dataset).suffix:
        different["dataset"] = dataset.sha256
    digest = hashlib.sha256(json.dumps([SCHEMA_VERSION, different], sort_keys=True).encode()).hexdigest()[:8]
    network = config.network.replace(":", ".")
    return f"{Path(config.dataset).stem}-{network}-wd{config.weight_decay:g}-seed{config.seed}-{digest}"


def check_same(folder: RunFolder, dataset: Dataset, network: Fingerprint | None) -> None:
    """Raises `RunError` if the run used other data, another network, or other definitions of the metrics."""
    described = read_json(folder.path / "config.json")
    if described is None:
        return
    remedy = "name another folder, or delete that one"
    for name, now in (("data_sha256", dataset.sha256), ("definitions", DEFINITIONS_VERSION)):
        if described.get(name) != now:
            raise RunError(f"{folder.path} was made with {name} {described.get(name)}, and now it is {now}; {remedy}")
    then = described.get("network")
    if network is not None and then and not network.matches(Fingerprint(then["sha256"], tuple(then["outputs"]))):
        raise RunError(
            f"{folder.path} was made with another network: {described['config']['network']} has changed since; "
            f"change it back, {remedy}"
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
