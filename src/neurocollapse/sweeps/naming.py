"""The name of a run's folder, which says what the run is, and the two versions that it depends on."""

import hashlib
import json
import re
from pathlib import Path

from ..training import DEFAULTS_VERSION, RunConfig

#: The version of the files in a run's folder. A folder of another format cannot be read.
FORMAT = 2

#: The names that `run_name` makes.
RUN_NAME = re.compile(r".+-wd[0-9.e+-]+-seed[0-9]+-[0-9a-f]{8}")


def run_name(config: RunConfig, data_sha256: str, defaults: int = DEFAULTS_VERSION) -> str:
    """Returns a readable name with a hash of the fields that differ from the defaults of that version.

    Paths, device and threads do not enter. A data file counts by its content: moving it changes nothing, and editing it
    makes a different run.
    """
    different = config.changed_from(defaults)
    if Path(config.dataset).suffix:
        different["dataset"] = data_sha256
    digest = hashlib.sha256(json.dumps([defaults, different], sort_keys=True).encode()).hexdigest()[:8]
    network = config.network.replace(":", ".")
    return f"{Path(config.dataset).stem}-{network}-wd{config.weight_decay:g}-seed{config.seed}-{digest}"
