"""Configurations into runs on disk: checked, timed beforehand, trained with progress. What the commands share."""

import dataclasses
import functools
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from .datasets import Dataset, load_dataset
from .networks import build_network
from .progress import duration, follow, names
from .store import RunFolder, run_id
from .sweep import default_workers, estimate_seconds
from .training import RunConfig


@dataclass(frozen=True)
class Outcome:
    """Every run that was begun, those that failed with their message, and what to say beside any result."""

    folders: list[RunFolder]
    failures: list[dict[str, str]]
    notes: list[str]


def carry_out(
    configs: Sequence[RunConfig],
    out: Path,
    *,
    data_dir: Path | None,
    workers: int | None,
    device: str,
    dry_run: bool,
    console: Console,
) -> Outcome | None:
    """Train what is not finished yet. None for a dry run, which only says how long it would take.

    Everything that can be wrong with the data, the network, the device or the folder is found before anything is
    trained. Raises `ValueError`.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"--workers must be at least 1, got {workers}")
    _check_device(device)
    _check_writable(out)
    datasets = _datasets(configs, data_dir)
    for config, dataset in zip(configs, datasets, strict=True):
        build_network(config.network, dataset.input_shape, dataset.num_classes, depth=config.depth, width=config.width)
    notes = list(dict.fromkeys(note for dataset in datasets for note in dataset.notes))
    for note in notes:
        console.print(f"note: {note}")
    folders = [RunFolder(out / run_id(config, data)) for config, data in zip(configs, datasets, strict=True)]
    todo = [index for index, folder in enumerate(folders) if folder.result is None]
    unfinished = [configs[index] for index in todo]
    workers = min(workers or default_workers(), max(len(todo), 1))
    if todo:
        expected = _expected_time(unfinished, [datasets[index] for index in todo], workers)
        console.print(f"{len(todo)} run(s), {workers} at a time: {expected}")
    if len(todo) < len(configs):
        console.print(f"{len(configs) - len(todo)} run(s) have ended already, in {out}")
    if dry_run:
        return None
    out.mkdir(parents=True, exist_ok=True)
    failures = follow(unfinished, out, data_dir=data_dir, workers=workers, device=device, console=console)
    for index, (label, folder) in enumerate(zip(names(configs), folders, strict=True)):
        if index not in todo and folder.result and folder.status == "diverged":
            failures.append({"run": label, "message": folder.result["message"]})
            console.print(f"failed earlier: {label}: {folder.result['message']} (in {folder.path})")
    return Outcome([folder for folder in folders if folder.begun], failures, notes)


def _datasets(configs: Sequence[RunConfig], data_dir: Path | None) -> list[Dataset]:
    load = functools.cache(functools.partial(load_dataset, data_dir=data_dir))
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # `notes` say the same
        return [load(config.dataset, per_class=config.per_class) for config in configs]


def _check_device(device: str) -> None:
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:  # AssertionError: PyTorch was built without CUDA
        reason = str(error).partition("\n")[0]
        raise ValueError(f"--device {device} cannot be used here ({reason}); choose cpu, or cuda with a GPU") from error


def _check_writable(out: Path) -> None:
    nearest = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        raise ValueError(f"--out {out}: {nearest} is not a folder that can be written to; name another")


def _expected_time(configs: Sequence[RunConfig], datasets: Sequence[Dataset], workers: int) -> str:
    """Words for how long the runs should take; λ and seed make no difference."""
    alike: dict[RunConfig, float] = {}
    seconds = []
    for config, dataset in zip(configs, datasets, strict=True):
        key = dataclasses.replace(config, weight_decay=0.0, seed=0)
        if key not in alike:
            try:
                alike[key] = estimate_seconds(key, dataset)
            except ValueError:
                raise
            except Exception as error:  # the user's network may raise anything; its run will tell
                return f"no estimate of the time ({type(error).__name__}: {error})"
        seconds.append(alike[key])
    return f"about {duration(max(sum(seconds) / workers, max(seconds)))} on this machine"
