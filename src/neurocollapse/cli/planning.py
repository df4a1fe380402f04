"""Configurations into runs on disk, trained with progress: what the commands that train share."""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from .._errors import InputError, RunError
from ..sweeps import (
    Engine,
    Planned,
    RunFolder,
    check_device,
    check_precision,
    check_runs,
    default_workers,
    engine_named,
)
from ..training import RunConfig
from .options import Machines
from .progress import duration, follow, names

#: How an engine that is given no number of runs at a time shares out its machines.
_SHARED = {"batched": "those alike stacked into one program", "ray": "as many as the cluster has room for at a time"}


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
        raise InputError(f"--workers must be at least 1, got {workers}")
    train = engine_named(machines.engine, machines.address)
    check_device(machines.device_here)
    for config in configs:
        check_precision(config.precision, device)
    _check_writable("--out", out)
    track = _tracker(tensorboard, console)
    stacked = machines.engine == "batched"
    runs = check_runs(configs, out, machines.data_dir, stacked=stacked, device=machines.device_here)
    if runs and all(run.damage for run in runs):
        raise RunError(runs[0].damage)
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
    """Train what has not ended yet, with progress on the console. Raises `RunError` where the disk fails it."""
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


def _tracker(tensorboard: Path | None, console: Console) -> Callable[[RunFolder], None]:
    """What brings the folder for TensorBoard up to a run's. `ValueError` where it could not."""
    if tensorboard is None:
        return lambda folder: None
    try:
        from ..sweeps.tensorboard import track
    except ImportError as error:
        raise InputError(str(error)) from error
    _check_writable("--tensorboard", tensorboard)

    def tracked(folder: RunFolder) -> None:
        try:
            track(folder, tensorboard)
        except RunError as error:
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
        raise InputError(
            f"{option} {folder}: {nearest} is not a folder that can be written to; name another ({error.strerror})"
        ) from error


def _expected_time(plan: Plan) -> str:
    if plan.seconds is None:
        return f"no estimate of the time ({next(run.seconds for run in plan.todo if isinstance(run.seconds, str))})"
    one_by_one = "" if plan.workers else " one by one"
    return f"about {duration(plan.seconds)}{one_by_one} on this machine"
