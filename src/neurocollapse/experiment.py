"""Configurations into runs on disk: checked, timed beforehand, trained with progress. What the commands share."""

import dataclasses
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
    plan = _plan(configs, out, data_dir)
    notes = list(dict.fromkeys(note for planned in plan for note in planned.notes))
    for note in notes:
        console.print(f"note: {note}")
    todo = [planned for planned in plan if not planned.ended]
    workers = min(workers or (default_workers() if device == "cpu" else 1), max(len(todo), 1))
    if todo:
        console.print(f"{len(todo)} run(s), {workers} at a time: {_expected_time(todo, workers)}")
    if len(todo) < len(plan):
        console.print(f"{len(plan) - len(todo)} run(s) have ended already, in {out}")
    if dry_run:
        return None
    out.mkdir(parents=True, exist_ok=True)
    unfinished = [planned.config for planned in todo]
    try:
        failures = follow(unfinished, out, data_dir=data_dir, workers=workers, device=device, console=console)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("what was saved stays, and the same command goes on from there") from None
    for label, planned in zip(names(configs), plan, strict=True):
        if planned.ended and (result := planned.folder.result) and result["status"] == "diverged":
            failures.append({"run": label, "message": result["message"]})
            console.print(f"failed earlier: {label}: {result['message']} (in {planned.folder.path})")
    return Outcome([planned.folder for planned in plan if planned.folder.begun], failures, notes)


@dataclass(frozen=True)
class _Planned:
    config: RunConfig
    folder: RunFolder
    ended: bool
    notes: tuple[str, ...]
    seconds: float | str
    """How long it should take, or why that is not known."""


def _plan(configs: Sequence[RunConfig], out: Path, data_dir: Path | None) -> list[_Planned]:
    """Check every run against its data. The data are not kept: every worker loads its own."""
    planned: dict[int, _Planned] = {}
    sources = dict.fromkeys((config.dataset, config.per_class) for config in configs)
    for source in sources:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* is not the published one")  # a note says the same
            dataset = load_dataset(source[0], data_dir=data_dir, per_class=source[1])
        alike: dict[RunConfig, float | str] = {}  # λ and seed make no difference to the time
        for index, config in enumerate(configs):
            if (config.dataset, config.per_class) != source:
                continue
            shape = dataset.input_shape
            build_network(config.network, shape, dataset.num_classes, depth=config.depth, width=config.width)
            folder = RunFolder(out / run_id(config, dataset))
            folder.check_same(dataset)
            ended = folder.result is not None
            key = dataclasses.replace(config, weight_decay=0.0, seed=0)
            if not ended and key not in alike:
                alike[key] = _estimate(key, dataset)
            planned[index] = _Planned(config, folder, ended, dataset.notes, 0.0 if ended else alike[key])
    return [planned[index] for index in range(len(configs))]


def _estimate(config: RunConfig, dataset: Dataset) -> float | str:
    try:
        return estimate_seconds(config, dataset)
    except ValueError:
        raise
    except Exception as error:  # the user's network may raise anything; its run will tell
        return f"{type(error).__name__}: {error}"


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


def _expected_time(todo: Sequence[_Planned], workers: int) -> str:
    seconds = [planned.seconds for planned in todo if not isinstance(planned.seconds, str)]
    if len(seconds) < len(todo):
        return f"no estimate of the time ({next(p.seconds for p in todo if isinstance(p.seconds, str))})"
    return f"about {duration(max(sum(seconds) / workers, max(seconds)))} on this machine"
