"""The name of a run's folder, which says what the run is, and the two versions that it depends on."""

import hashlib
import json
import os
import re

from ..datasets import DATASETS
from ..training import DEFAULTS_VERSION, RunConfig

#: The version of the files in a run's folder. A folder of another format cannot be read.
FORMAT = 2

#: The names that `run_name` makes.
RUN_NAME = re.compile(r".+-wd[0-9.e+-]+-seed[0-9]+-[0-9a-f]{8}")


def run_name(config: RunConfig, data_sha256: str, defaults: int = DEFAULTS_VERSION) -> str:
    """Returns a readable name with a hash of the fields that differ from the defaults of that version.

    Paths, device and threads do not enter. The user's own data count by their content: moving a file changes nothing,
    and editing it makes a different run.
    """
    different = config.changed_from(defaults)
    if config.dataset not in DATASETS:
        different["dataset"] = data_sha256
    digest = hashlib.sha256(json.dumps([defaults, different], sort_keys=True).encode()).hexdigest()[:8]
    network = _plain(config.network)
    return f"{_data_name(config.dataset)}-{network}-wd{config.weight_decay:g}-seed{config.seed}-{digest}"


def _data_name(dataset: str) -> str:
    """Returns what a folder's name says of a data set: a file's or a folder's own name, and no sign of a path."""
    base = os.path.basename(os.path.abspath(dataset))
    if dataset.lower().endswith(".npz"):
        return os.path.splitext(base)[0]
    return (_plain(dataset) if ":" in dataset else base)[-60:]  # a file system's names end at 255 bytes


def _plain(name: str) -> str:
    """Returns a name such as module:function without signs that a folder's name may not have."""
    return re.sub(r"[^\w.-]+", ".", name)
