"""Checks runs before anything is trained: their data, network and folder, and how long each should take."""

import dataclasses
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from .._errors import InputError, NetworkError
from ..datasets import Dataset
from ..networks import Fingerprint
from ..training import RunConfig, data_part, last_epoch, network_of, training_data
from .axes import estimate_seconds
from .folder import RunFolder
from .identity import check_resumable, run_id
from .networks_tried import fingerprint, is_users_own, probe, probe_stacked, run_notes


@dataclass(frozen=True)
class Planned:
    """A run that was checked against its data and its folder."""

    config: RunConfig
    folder: RunFolder
    ended: bool
    notes: tuple[str, ...]
    seconds: float | str = 0.0
    """How long the run should still take, or why that is not known."""
    damage: str | None = None
    """Why its folder can neither be resumed nor counted as ended."""

    @property
    def due(self) -> bool:
        """Whether the run is to be trained: it has not ended, and its folder is whole."""
        return not (self.ended or self.damage)


def check_device(device: str) -> None:
    """Raises `ValueError` if PyTorch cannot use the device."""
    try:
        torch.zeros(1, device=device, dtype=torch.float64).item()  # the metrics are computed in float64
    except (RuntimeError, AssertionError, TypeError):  # AssertionError: PyTorch was built without CUDA
        there = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        raise InputError(f"device {device} cannot be used here; there is: {', '.join(there)}") from None


def check_precision(precision: str, device: str) -> None:
    """Raises `ValueError` if the device has no products of this precision, and would silently use others."""
    if precision == "tf32" and not device.startswith("cuda"):
        raise InputError(f"precision tf32 needs an NVIDIA GPU, got device {device}; take float32, or device cuda")


def check_runs(
    configs: Sequence[RunConfig],
    out: Path,
    data_dir: Path | None,
    *,
    timed: bool = True,
    stacked: bool = False,
    device: str = "cpu",
) -> list[Planned]:
    """Checks every run against its data and its folder and, if it is to be trained and `timed`, estimates its time.

    `stacked` runs are also tried as one program. The data are not kept: every worker loads its own. Raises
    `ValueError`.
    """
    runs: dict[int, Planned] = {}
    by_data: dict[RunConfig, list[int]] = {}
    for index, config in enumerate(configs):
        by_data.setdefault(data_part(config), []).append(index)
    for part, indices in by_data.items():
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* is not the published one")  # a note says the same
            dataset = training_data(part, data_dir)
        check = _Check(dataset, out, timed, stacked, device)
        runs |= {index: check(configs[index]) for index in indices}
    return [runs[index] for index in range(len(configs))]


class _Check:
    """Checks the runs on one data set; what several of them share is checked once."""

    def __init__(self, dataset: Dataset, out: Path, timed: bool, stacked: bool, device: str):
        self.dataset, self.out, self.timed, self.stacked, self.device = dataset, out, timed, stacked, device
        self.networks: dict[RunConfig, tuple[Fingerprint | None, tuple[str, ...]]] = {}
        self.seconds: dict[RunConfig, float | str] = {}

    def __call__(self, config: RunConfig) -> Planned:
        network_of(config, self.dataset)
        kind = dataclasses.replace(config, weight_decay=float(bool(config.weight_decay)), seed=0)
        if kind not in self.networks:
            probe(config, self.dataset)
            if self.stacked:
                _check_stackable(config, self.dataset)
            self.networks[kind] = fingerprint(config, self.dataset), run_notes(config, self.dataset) + _idle(config)
        network, notes = self.networks[kind]
        folder = RunFolder(self.out / run_id(config, self.dataset))
        if damage := folder.damage:
            return Planned(config, folder, False, self.dataset.notes + notes, damage=damage)
        check_resumable(folder, self.dataset, network)
        ended = folder.result is not None
        seconds = self.estimate(config, folder) if self.timed and not ended else 0.0
        return Planned(config, folder, ended, self.dataset.notes + notes, seconds)

    def estimate(self, config: RunConfig, folder: RunFolder) -> float | str:
        key = dataclasses.replace(config, weight_decay=0.0, seed=0)  # these make no difference to the time
        if key not in self.seconds:
            self.seconds[key] = _estimate(key, self.dataset, self.device)
        whole = self.seconds[key]
        if isinstance(whole, str):
            return whole
        return whole * (1 - (folder.checkpoint_epoch() or 0) / max(last_epoch(config), 1))


def _idle(config: RunConfig) -> tuple[str, ...]:
    """Returns a note for each field that was set and makes no difference."""
    idle = [(name, need) for name, need in config.idle.items() if name in config.changed]
    return tuple(f"{name} {getattr(config, name)} makes no difference: it needs {need}" for name, need in idle)


def _check_stackable(config: RunConfig, dataset: Dataset) -> None:
    try:
        probe_stacked(config, dataset)
    except NetworkError as error:
        raise NetworkError(f"engine batched: {error}") from error


def _estimate(config: RunConfig, dataset: Dataset, device: str) -> float | str:
    try:
        return estimate_seconds(config, dataset, device)
    except Exception as error:  # the user's network may raise anything; its run will show it
        of_the_users = is_users_own(config) and not isinstance(error, NetworkError)
        if isinstance(error, ValueError) and not of_the_users:
            raise
        return f"{type(error).__name__}: {error}"
