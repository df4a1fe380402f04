"""The training loop: it trains one run, or several side by side, and measures them. It knows nothing of disks."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from .._errors import CheckpointError, DivergedError, InputError, InputTypeError, checks_arguments
from .._html import Brief
from ..datasets import Dataset, Selection, load_dataset
from .config import RunConfig
from .epoch import Alone, Together
from .rest import at_rest, distance
from .run import Run, on_device
from .schedule import Record, last_epoch, recorded_epochs

#: The tensors of an earlier state, and the last record before or at it.
Resume = tuple[Mapping[str, Tensor], Record]


@dataclass(frozen=True, repr=False)
class State(Brief):
    """The run after `epoch` epochs; `record` is None at epochs that are not measured."""

    epoch: int
    objective: float
    """The data term, averaged over the mini-batches (each at the weights of its step), plus the decay term at the end
    of the epoch; nan at epoch 0."""
    record: Record | None
    seconds: dict[str, float]
    tensors: dict[str, Tensor]
    """Weights (`model.*`) and optimiser state (`optimizer.*`). Training goes on to change them: copy what you keep."""
    finished: bool
    snapshot: dict[str, Tensor] | None = None
    """Samples and Gram matrices that a report draws for the record: see `training.snapshot`."""


def data_part(config: RunConfig) -> RunConfig:
    """Returns the configuration with every field that does not affect the data at its default.

    It is equal for runs that share a data set.
    """
    return RunConfig(dataset=config.dataset, **_selection(config))


def _selection(config: RunConfig) -> dict[str, Any]:
    """Returns the fields of a `Selection`; the seed counts only if labels are shuffled."""
    chosen = {field.name: getattr(config, field.name) for field in fields(Selection)}
    return chosen if config.label_noise else {**chosen, "seed": 0}


def training_data(config: RunConfig, data_dir: Path | None = None) -> Dataset:
    """Loads the data that a configuration trains on: see `load_dataset`."""
    return load_dataset(config.dataset, data_dir=data_dir, **_selection(config))


@checks_arguments
def epochs(
    config: RunConfig, dataset: Dataset | None = None, *, resume: Resume | None = None, device: str = "cpu"
) -> Iterator[State]:
    """Trains one configuration and yields the `State` after every epoch, starting with epoch 0 (before training).

    `resume` holds the tensors of an earlier state and the last record before or at it; the run continues as if it had
    never stopped. Random numbers depend on (seed, epoch) alone. `train` trains a run to its end.

    Raises `DivergedError` when the objective is no longer finite, or at the end is over 1000 times what it was at the
    start and what outputs of zero have. Raises `NetworkError` and `DatasetError` when the first state is requested.

    >>> config = RunConfig(dataset="gaussian", network="mlp", depth=2, width=8, epochs=10, learning_rate=0.01)
    >>> [round(state.record["train.accuracy"], 1) for state in epochs(config) if state.record][-1]
    1.0
    """
    if not isinstance(config, RunConfig):
        raise InputTypeError(f"epochs takes a RunConfig, got {config!r} of type {type(config).__name__}")
    return _states(config, dataset, resume, device)


def _states(config: RunConfig, dataset: Dataset | None, resume: Resume | None, device: str) -> Iterator[State]:
    course = _Course(config, training_data(config) if dataset is None else dataset, resume, device)
    program = Alone(course.run)
    while not course.finished:
        start = time.perf_counter()
        objective = program.epoch(course.next) if course.next else math.nan
        yield course.arrive(objective, time.perf_counter() - start)


def stack_key(config: RunConfig) -> RunConfig:
    """Returns a configuration that is equal for runs that can be trained as one program: what may differ is fixed.

    A run until rest is a program of its own, since its batches grow.
    """
    if config.until == "rest":
        return config
    seed = data_part(config).seed  # the data are shared
    return replace(
        config,
        seed=seed,
        weight_decay=0.0,
        learning_rate=1.0,
        initial_norm=1.0,
        epochs=0,
        gradient_tolerance=0.0,
    )


def train_together(
    configs: Sequence[RunConfig],
    dataset: Dataset,
    *,
    resumes: Sequence[Resume | None] | None = None,
    device: str = "cpu",
) -> Iterator[tuple[int, State | DivergedError | CheckpointError]]:
    """Trains several configurations as one program.

    Yields, for each epoch of each run, its index in `configs` and what `epochs` would yield or raise. Ten steps in
    float64 equal those of `epochs`; later the paths diverge by rounding, as they do between any two machines.

    Raises `ValueError` if the configurations do not share one `stack_key`, and `NetworkError` if `torch.func` cannot
    stack the network.
    """
    if len({stack_key(config) for config in configs}) > 1:
        raise InputError("runs of one program differ in seed, λ, learning rate, initial norm and length alone")
    shared = on_device(dataset, device)  # once, and not by every run
    courses: dict[int, _Course] = {}
    for index, (config, resume) in enumerate(zip(configs, resumes or [None] * len(configs), strict=True)):
        try:
            course = _Course(config, shared, resume, device)
        except CheckpointError as error:
            yield index, error
        else:
            courses |= {} if course.finished else {index: course}
    program: Together | None = None
    while courses:
        start = time.perf_counter()
        moving = {index: course for index, course in courses.items() if course.next}
        runs, epochs = [course.run for course in moving.values()], [course.next for course in moving.values()]
        if runs and (program is None or program.runs != runs):
            program = Together(runs)
        ends = dict(zip(moving, program.epoch(epochs) if program and runs else [], strict=True))
        share = (time.perf_counter() - start) / max(len(runs), 1)
        for index, course in list(courses.items()):
            try:
                arrived: State | DivergedError = course.arrive(ends.get(index, math.nan), share)
            except DivergedError as error:
                arrived = error
            if course.finished or isinstance(arrived, DivergedError):
                del courses[index]
            yield index, arrived


class _Course:
    """A run in progress: its next epoch, and its record before that."""

    def __init__(self, config: RunConfig, dataset: Dataset, resume: Resume | None, device: str):
        self.run = Run(config, dataset, device)
        self.recorded, self.last = recorded_epochs(config), last_epoch(config)
        self.next = 0
        self.before: Record | None = None
        if resume is not None:
            tensors, self.before = resume
            self.next = self.run.load(tensors) + 1
        self.finished = self.next > self.last

    def arrive(self, objective: float | DivergedError, trained: float) -> State:
        """Returns the state at the end of the next epoch, measured if it is due. Raises `DivergedError`."""
        if isinstance(objective, DivergedError):
            raise objective
        epoch, start = self.next, time.perf_counter()
        record: Record | None = None
        shown: dict[str, Tensor] | None = None
        self.finished = epoch == self.last
        if epoch in self.recorded:
            record, shown = self.run.measure(epoch)
            record |= distance(record, self.before)
            record["terminal_phase_start"] = _terminal_phase_start(record, self.before)
            self.finished |= self._may_stop(record)
            self.before = record
        self.next += 1
        seconds = {"train": trained, "measure": time.perf_counter() - start}
        return State(epoch, objective, record, seconds, self.run.tensors(epoch), self.finished, shown)

    def _may_stop(self, record: Record) -> bool:
        config = self.run.config
        if config.until == "rest" and record["epoch"] > 0 and at_rest(config, record):
            return True
        return bool(record["gradient_norm"] < config.gradient_tolerance)


def _terminal_phase_start(record: Record, before: Record | None) -> int | None:
    if record["train.accuracy"] < 1:
        return None
    start: int | None = None if before is None else before["terminal_phase_start"]
    return record["epoch"] if start is None else start
