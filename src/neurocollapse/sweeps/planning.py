"""Trains many runs on disk in one call: checks everything first, then trains what has not ended, with progress."""

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .._errors import InputError, InputTypeError, RunError, checks_arguments
from .._files import path_of
from .._progress import Progress, duration
from ..training import RunConfig
from .checks import Planned, check_device, check_precision, check_runs
from .engines import Engine, engine_named
from .engines.work import check_workers, default_workers, workers_for
from .folder import RunFolder
from .machines import Machines
from .watching import follow, run_labels

#: How an engine that has no fixed number of workers runs them.
_SHARED = {"batched": "those alike stacked into one program", "ray": "as many as the cluster has room for at a time"}


class SweepResult(Sequence[RunFolder]):
    """The folders of the runs that have started, in the order of the sweep's configurations.

    `failures` holds `{"run": label, "message": why}` for each run that failed or is damaged.
    """

    def __init__(self, folders: Sequence[RunFolder], failures: Sequence[dict[str, str]]):
        self.folders, self.failures = list(folders), list(failures)

    def __len__(self) -> int:
        return len(self.folders)

    def __getitem__(self, index: Any) -> Any:
        return self.folders[index]

    def __repr__(self) -> str:
        return f"SweepResult({len(self)} runs, {len(self.failures)} failed)"

    @property
    def whole(self) -> list[RunFolder]:
        """The folders that are not damaged."""
        return [folder for folder in self.folders if folder.damage is None]


@dataclass(frozen=True)
class Plan:
    """The runs of a sweep, checked against their data and folders, with everything that `carry_out` needs."""

    runs: list[Planned]
    out: Path
    machines: Machines
    """With `workers` as it will be: None for as many as a cluster has room for, or as can be stacked."""
    engine: Engine
    track: Callable[[RunFolder], None]
    """A function that is called with the folder of a run that may have new records."""
    progress: Progress

    @property
    def todo(self) -> list[Planned]:
        """The runs that are to be trained."""
        return [run for run in self.runs if run.due]

    @property
    def notes(self) -> list[str]:
        """The notes to show beside any result."""
        return list(_notes(self.runs))

    @property
    def seconds(self) -> float | None:
        """The expected time, or None if it is not known; on a cluster, the time of one run after the other."""
        each = [run.seconds for run in self.todo if not isinstance(run.seconds, str)]
        if len(each) < len(self.todo):
            return None
        at_once = self.machines.workers or 1
        if self.machines.device == "cpu" and not self.machines.is_shared:
            at_once = min(at_once, default_workers())  # more share the cores
        return max(sum(each) / at_once, max(each, default=0.0))

    def carry_out(self) -> SweepResult:
        """Trains the runs that have not ended. Raises `RunError` if the disk fails."""
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            labels = run_labels([run.config for run in self.runs])
            for run in self.runs:
                if not run.damage:
                    self.track(run.folder)  # what earlier calls have recorded
            failed = self._train([place for place, run in enumerate(self.runs) if run.due], labels)
        except KeyboardInterrupt as stop:  # or a kind of it
            raise type(stop)("what was saved stays, and the same command resumes it") from None
        failures = [{"run": labels[place], "message": message} for place, message in failed.items()]
        for place, (label, run) in enumerate(zip(labels, self.runs, strict=True)):
            if place in failed:
                continue
            if damage := run.damage or run.folder.damage:
                failures.append({"run": label, "message": damage})
                self.progress.say(f"damaged: {label}: {damage}")
            elif run.ended and (result := run.folder.result) and result["status"] == "diverged":
                failures.append({"run": label, "message": result["message"]})
                self.progress.say(f"failed earlier: {label}: {result['message']} (in {run.folder.path})")
        return SweepResult([run.folder for run in self.runs if run.folder.started], failures)

    def _train(self, due: list[int], labels: list[str]) -> dict[int, str]:
        """Trains the runs at these places, and returns the places of those that failed with their messages."""
        if not due:
            return {}
        configs = [self.runs[place].config for place in due]
        here = self.machines
        failed = follow(
            self.engine(configs, self.out, data_dir=here.data_dir, workers=here.workers, device=here.device),
            configs,
            [labels[place] for place in due],
            progress=self.progress,
            on_news=lambda index: self.track(self.runs[due[index]].folder),
        )
        return {due[index]: message for index, message in failed.items()}


def plan_sweep(configs: Iterable[RunConfig], out: Path | str, machines: Machines) -> Plan:
    """Checks everything that `sweep` needs and estimates the time, without training anything. See `sweep`.

    It raises an error for whatever is wrong with the engine, the data, the network, the device or the folders. A run
    whose own folder is damaged does not stop the others; if all are damaged, this raises `RunError`.
    """
    if isinstance(configs, RunConfig):
        raise InputTypeError("sweep takes several configurations, got one; train it with train, or put it into a list")
    configs = list(configs) if isinstance(configs, Iterable) else [configs]
    out, shown = path_of(out), Progress(machines.progress)
    if strange := [config for config in configs if not isinstance(config, RunConfig)]:
        raise InputTypeError(f"sweep takes a Sweep or RunConfigs, got {strange[0]!r}")
    check_workers(machines.workers)
    engine = engine_named(machines.engine, machines.address)
    check_device(machines.device_here)  # a cluster's devices are checked when the runs start
    for config in configs:
        check_precision(config.precision, machines.device)
    read_only = _read_only(out)
    track = _tracker(machines.tensorboard, shown)
    timed, stacked = read_only is None, machines.engine == "batched"
    runs = check_runs(configs, out, machines.data_dir, timed=timed, stacked=stacked, device=machines.device_here)
    if read_only and any(run.due for run in runs):
        raise read_only
    if runs and all(run.damage for run in runs):
        raise RunError(runs[0].damage)
    unfinished, workers = sum(run.due for run in runs), machines.workers
    if not (machines.is_shared or stacked):  # a stacking engine takes as many as it can
        workers = workers or (workers_for(unfinished) if machines.device == "cpu" else 1)
    workers = workers and min(workers, max(unfinished, 1))
    plan = Plan(runs, out, replace(machines, workers=workers), engine, track, shown)
    say_notes(runs, shown)
    if unfinished:
        at_a_time = _SHARED.get(machines.engine, "") if workers is None else f"{workers} at a time"
        shown.say(f"{unfinished} run(s), {at_a_time}: {_expected_time(plan)}")
    if ended := sum(run.ended for run in runs):
        shown.say(f"{ended} run(s) have ended already, in {out}")
    if damaged := sum(run.damage is not None for run in runs):
        shown.say(f"{damaged} run(s) are damaged and left alone")
    return plan


@checks_arguments
def sweep(
    configs: Iterable[RunConfig],
    out: Path | str,
    *,
    engine: str = "processes",
    workers: int | None = None,
    device: str = "cpu",
    data_dir: Path | str | None = None,
    address: str | None = None,
    tensorboard: Path | str | None = None,
    progress: bool | None = None,
) -> SweepResult:
    """Trains many runs into folders of `out`. The same call resumes stopped runs and skips those that have ended.

    Args:
        configs: a `Sweep`, or any configurations.
        out: the folder for the runs, each in `out`/<run-id>.
        engine: "processes" trains side by side on this machine; "batched" stacks runs that are alike into one program,
            for a GPU; "ray" trains on this machine or a cluster.
        workers: runs at a time; by default as many as keep every core busy, or what the engine can take.
        device: "cpu", "cuda" or "cuda:1".
        data_dir: the folder that holds published data sets, or that they are downloaded to.
        address: the address of a Ray cluster; "auto" is that of this machine.
        tensorboard: a folder for TensorBoard, which shows the records as they come.
        progress: whether to show progress; by default in a terminal and in a notebook.

    Returns:
        A `SweepResult`: the `RunFolder`s in order, and `failures`. A run that fails does not stop the others.

    Raises:
        NeurocollapseError: something is wrong with the arguments, which is found before anything is trained; or the
            disk fails.

    >>> import neurocollapse as nc
    >>> import tempfile
    >>> base = nc.RunConfig(dataset="gaussian", network="mlp", depth=2, width=8, epochs=1)
    >>> with tempfile.TemporaryDirectory() as out:
    ...     runs = nc.sweep(nc.Sweep(base, {"seed": range(2)}), out, workers=1)
    ...     print([run.status for run in runs], len(nc.runs(out)))
    ['finished', 'finished'] 4
    """
    machines = Machines(path_of(data_dir), workers, device, engine, address, path_of(tensorboard), progress)
    return plan_sweep(configs, out, machines).carry_out()


def _notes(runs: Iterable[Planned]) -> Counter[str]:
    return Counter(note for run in runs for note in run.notes)


def say_notes(runs: Sequence[Planned], progress: Progress) -> None:
    """Shows the notes on the runs, each with the number of runs that it is about."""
    for note, count in _notes(runs).items():
        of = "" if count == len(runs) else f", of {count} of the {len(runs)} runs"
        progress.say(f"note{of}: {note}")


def _tracker(tensorboard: Path | None, progress: Progress) -> Callable[[RunFolder], None]:
    """Returns a function that copies a run's new records to TensorBoard. Raises `InputError` if that is impossible."""
    if tensorboard is None:
        return lambda folder: None
    try:
        from .tensorboard import Tracker  # imports TensorBoard, an extra
    except ImportError as error:
        raise InputError(str(error)) from error
    _check_writable("tensorboard", tensorboard)
    track = Tracker(tensorboard)

    def tracked(folder: RunFolder) -> None:
        try:
            track(folder)
        except RunError as error:
            progress.say(f"not in TensorBoard: {error}")

    return tracked


def _read_only(out: Path) -> InputError | None:
    """Returns the error of `_check_writable` for a folder that is there: runs that have ended may be looked at."""
    try:
        _check_writable("out", out)
    except InputError as error:
        if os.path.isdir(out):  # pathlib's raises for a name that is too long
            return error
        raise
    return None


def _check_writable(argument: str, folder: Path) -> None:
    """Raises `InputError` if the folder cannot be made. It tries in a temporary folder and leaves nothing behind."""
    nearest = folder.absolute()
    try:
        while not nearest.exists():
            nearest = nearest.parent
        with tempfile.TemporaryDirectory(dir=nearest, prefix=".neurocollapse-") as trial:
            (Path(trial) / folder.absolute().relative_to(nearest)).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{argument} {folder}: {nearest} is not a folder that can be written to; name another ({error.strerror})"
        ) from error


def _expected_time(plan: Plan) -> str:
    if plan.seconds is None:
        return f"no estimate of the time ({next(run.seconds for run in plan.todo if isinstance(run.seconds, str))})"
    one_by_one = "" if plan.machines.workers else " one by one"
    return f"about {duration(plan.seconds)}{one_by_one} on this machine"
