"""Configurations into runs on disk: checked, timed beforehand, trained with progress. What the commands share."""

import dataclasses
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from .datasets import Dataset
from .engines import Engine, default_workers, engine_named
from .networks import NetworkError
from .options import Machines
from .probing import Fingerprint, fingerprint, is_users_own, probe, probe_stacked, run_notes
from .progress import duration, follow, names
from .store import RunFolder, StoreError, run_id
from .sweep import estimate_seconds
from .training import RunConfig, data_part, network_of, training_data

#: How an engine that is given no number of runs at a time shares out its machines.
_SHARED = {"batched": "those alike stacked into one program", "ray": "as many as the cluster has room for at a time"}


@dataclass(frozen=True)
class Planned:
    """A run that was checked against its data and its folder."""

    config: RunConfig
    folder: RunFolder
    ended: bool
    notes: tuple[str, ...]
    seconds: float | str = 0.0
    """How long it should still take, or why that is not known."""
    damage: str | None = None
    """Why its folder can neither be gone on with nor be taken for done."""

    @property
    def due(self) -> bool:
        return not (self.ended or self.damage)


@dataclass(frozen=True)
class Plan:
    """The runs asked for, and what `carry_out` needs to train those that have not ended."""

    runs: list[Planned]
    out: Path
    engine: Engine
    data_dir: Path | None
    workers: int | None
    """Runs at a time, or None for as many as a cluster has room for, or as can be stacked."""
    device: str
    track: Callable[[RunFolder], None]
    """Called with the folder of a run that may have something new."""

    @property
    def todo(self) -> list[Planned]:
        return [run for run in self.runs if run.due]

    @property
    def notes(self) -> list[str]:
        """What to say beside any result."""
        return list(_notes(self.runs))

    @property
    def seconds(self) -> float | None:
        """How long it should take, or None where that is not known; on a cluster, one run after the other."""
        each = [run.seconds for run in self.todo if not isinstance(run.seconds, str)]
        if len(each) < len(self.todo):
            return None
        return max(sum(each) / (self.workers or 1), max(each, default=0.0))


@dataclass(frozen=True)
class Outcome:
    """Every run that was begun, and those that failed or are damaged with their message."""

    folders: list[RunFolder]
    failures: list[dict[str, str]]

    @property
    def whole(self) -> list[RunFolder]:
        return [folder for folder in self.folders if folder.damage is None]


def prepare(
    configs: Sequence[RunConfig],
    out: Path,
    machines: Machines,
    console: Console,
    *,
    tensorboard: Path | None = None,
) -> Plan:
    """Check everything, and say on the console how long it would take.

    Whatever can be wrong with the engine, the data, the network, the device or the folders is found here, before
    anything is trained. Raises `ValueError`. A run whose own folder is damaged does not stop the others; where that
    is true of all, this raises too.
    """
    workers, device, shared = machines.workers, machines.device, machines.is_shared
    if workers is not None and workers < 1:
        raise ValueError(f"--workers must be at least 1, got {workers}")
    train = engine_named(machines.engine, machines.address)
    check_device(machines.device_here)
    _check_writable("--out", out)
    track = _tracker(tensorboard, console)
    stacked = machines.engine == "batched"
    runs = check_runs(configs, out, machines.data_dir, stacked=stacked, device=machines.device_here)
    if runs and all(run.damage for run in runs):
        raise StoreError(runs[0].damage)
    unfinished = sum(run.due for run in runs)
    if not shared and not stacked:  # which stacks all that it can
        workers = workers or (default_workers() if device == "cpu" else 1)
    plan = Plan(runs, out, train, machines.data_dir, workers and min(workers, max(unfinished, 1)), device, track)
    print_notes(runs, console)
    if unfinished:
        at_a_time = _SHARED.get(machines.engine, "") if plan.workers is None else f"{plan.workers} at a time"
        console.print(f"{unfinished} run(s), {at_a_time}: {_expected_time(plan)}")
    if ended := sum(run.ended for run in runs):
        console.print(f"{ended} run(s) have ended already, in {out}")
    if damaged := sum(run.damage is not None for run in runs):
        console.print(f"{damaged} run(s) are damaged and left alone")
    return plan


def carry_out(plan: Plan, console: Console) -> Outcome:
    """Train what has not ended yet, with progress on the console. Raises `StoreError` where the disk fails it."""
    try:
        plan.out.mkdir(parents=True, exist_ok=True)
        labels = names([run.config for run in plan.runs])
        due = [place for place, run in enumerate(plan.runs) if run.due]
        for run in plan.runs:
            if not run.damage:
                plan.track(run.folder)  # what earlier commands have recorded
        failed = follow(
            [plan.runs[place].config for place in due],
            [labels[place] for place in due],
            plan.out,
            engine=plan.engine,
            data_dir=plan.data_dir,
            workers=plan.workers,
            device=plan.device,
            console=console,
            on_news=lambda place: plan.track(plan.runs[due[place]].folder),
        )
    except KeyboardInterrupt as stop:  # or a kind of it
        raise type(stop)("what was saved stays, and the same command goes on from there") from None
    failures = [{"run": labels[due[place]], "message": message} for place, message in failed.items()]
    told = {due[place] for place in failed}
    for place, (label, run) in enumerate(zip(labels, plan.runs, strict=True)):
        if place in told:
            continue
        if damage := run.damage or run.folder.damage:
            failures.append({"run": label, "message": damage})
            console.print(f"damaged: {label}: {damage}")
        elif run.ended and (result := run.folder.result) and result["status"] == "diverged":
            failures.append({"run": label, "message": result["message"]})
            console.print(f"failed earlier: {label}: {result['message']} (in {run.folder.path})")
    return Outcome([run.folder for run in plan.runs if run.folder.begun], failures)


def _notes(runs: Iterable[Planned]) -> Counter[str]:
    return Counter(note for run in runs for note in run.notes)


def print_notes(runs: Sequence[Planned], console: Console) -> None:
    """What there is to say of the runs, and of how many of them."""
    for note, count in _notes(runs).items():
        of = "" if count == len(runs) else f", of {count} of the {len(runs)} runs"
        console.print(f"note{of}: {note}")


def check_runs(
    configs: Sequence[RunConfig],
    out: Path,
    data_dir: Path | None,
    *,
    timed: bool = True,
    stacked: bool = False,
    device: str = "cpu",
) -> list[Planned]:
    """Every run checked against its data and its folder and, where it is to be trained, `timed` on the device.

    `stacked` runs are tried as one program too. The data are not kept: every worker loads its own. Raises `ValueError`.
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
    """Checks the runs on one data set, and what several of them share only once."""

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
            self.networks[kind] = fingerprint(config, self.dataset), run_notes(config, self.dataset)
        network, notes = self.networks[kind]
        folder = RunFolder(self.out / run_id(config, self.dataset))
        if damage := folder.damage:
            return Planned(config, folder, False, self.dataset.notes + notes, damage=damage)
        folder.check_same(self.dataset, network)
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
        return whole * (1 - (folder.checkpoint_epoch() or 0) / max(config.epochs, 1))


def _check_stackable(config: RunConfig, dataset: Dataset) -> None:
    try:
        probe_stacked(config, dataset)
    except NetworkError as error:
        raise NetworkError(f"--engine batched: {error}") from error


def _estimate(config: RunConfig, dataset: Dataset, device: str) -> float | str:
    try:
        return estimate_seconds(config, dataset, device)
    except Exception as error:  # the user's network may raise anything; its run will tell
        of_the_users = is_users_own(config) and not isinstance(error, NetworkError)
        if isinstance(error, ValueError) and not of_the_users:
            raise
        return f"{type(error).__name__}: {error}"


def check_device(device: str) -> None:
    """`ValueError` where it is not there."""
    try:
        torch.zeros(1, device=device, dtype=torch.float64).item()  # the metrics are taken in float64
    except (RuntimeError, AssertionError, TypeError):  # AssertionError: PyTorch was built without CUDA
        there = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        raise ValueError(f"--device {device} cannot be used here; there is: {', '.join(there)}") from None


def _tracker(tensorboard: Path | None, console: Console) -> Callable[[RunFolder], None]:
    """What brings the folder for TensorBoard up to a run's. `ValueError` where it could not."""
    if tensorboard is None:
        return lambda folder: None
    try:
        from .tracking import track  # which imports TensorBoard, an extra
    except ImportError as error:
        raise ValueError(str(error)) from error
    _check_writable("--tensorboard", tensorboard)

    def tracked(folder: RunFolder) -> None:
        try:
            track(folder, tensorboard)
        except StoreError as error:
            console.print(f"not in TensorBoard: {error}")

    return tracked


def _check_writable(option: str, folder: Path) -> None:
    """Tried beside its place, for nothing may be left of it where another check fails."""
    nearest = folder.absolute()
    try:
        while not nearest.exists():
            nearest = nearest.parent
        with tempfile.TemporaryDirectory(dir=nearest, prefix=".neurocollapse-") as trial:
            (Path(trial) / folder.absolute().relative_to(nearest)).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"{option} {folder}: {nearest} is not a folder that can be written to; name another ({error.strerror})"
        ) from error


def _expected_time(plan: Plan) -> str:
    if plan.seconds is None:
        return f"no estimate of the time ({next(run.seconds for run in plan.todo if isinstance(run.seconds, str))})"
    one_by_one = "" if plan.workers else " one by one"
    return f"about {duration(plan.seconds)}{one_by_one} on this machine"
