"""What tells a run from others, and what its bits depend on."""

import hashlib
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .._version import __version__
from ..datasets import Dataset
from ..training import RunConfig

#: Changes when the same configuration would give another run: new defaults, another order of random numbers.
SCHEMA_VERSION = 2


def run_id(config: RunConfig, dataset: Dataset) -> str:
    """A readable name and a hash of what differs from the defaults; free of paths, device and threads.

    A data file counts by its content, so that moving it changes nothing and editing it makes another run.
    """
    different = config.changed
    if Path(config.dataset).suffix:
        different["dataset"] = dataset.sha256
    digest = hashlib.sha256(json.dumps([SCHEMA_VERSION, different], sort_keys=True).encode()).hexdigest()[:8]
    network = config.network.replace(":", ".")
    return f"{Path(config.dataset).stem}-{network}-wd{config.weight_decay:g}-seed{config.seed}-{digest}"


def provenance(device: str) -> dict[str, Any]:
    """What the bits of a run depend on beside its configuration."""
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
