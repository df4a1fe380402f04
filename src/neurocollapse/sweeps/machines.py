"""Where and how runs are trained: what every function and command that trains many runs is given."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Machines:
    """Where runs are trained, how, and what is shown meanwhile. The docstring of a field is its help."""

    data_dir: Path | None = None
    """The folder that holds mnist and cifar10, or that they are downloaded to."""
    workers: int | None = None
    """Number of runs at a time; by default as many as keep every core busy until the end, one per core or a few more,
    and on a cluster as many as it has room for."""
    device: str = "cpu"
    """The device to train on: cpu, or cuda for an NVIDIA GPU."""
    engine: str = "processes"
    """How the runs are trained: processes trains them side by side on this machine; batched stacks runs that are alike
    into one program, for a GPU; ray trains them as tasks of Ray."""
    address: str | None = None
    """The address of the Ray cluster to join, or auto for this machine's; without one Ray uses this machine alone."""
    tensorboard: Path | None = None
    """A folder for TensorBoard, which shows the records as they come, also those of earlier commands."""
    progress: bool | None = None
    """Whether to show progress; by default in a terminal and in a notebook."""

    @property
    def is_shared(self) -> bool:
        """Whether runs are trained elsewhere, on a cluster."""
        return self.address is not None

    @property
    def device_here(self) -> str:
        """The device of this process: `device`, or the CPU if a cluster has the devices."""
        return "cpu" if self.is_shared else self.device
