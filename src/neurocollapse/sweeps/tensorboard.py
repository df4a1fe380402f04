"""Writes the records of runs for TensorBoard.

Nothing is noted about what was written, since a process could be killed between writing and noting it. TensorBoard's
own reader shows what it would draw, and a new event file takes over from the first step at which that differs from the
run's records: `purge_step` hides what earlier files hold from there on.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

try:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter
except ImportError as error:
    raise ImportError(
        f"tensorboard needs TensorBoard, which is not installed ({error}): pip install 'neurocollapse[track]'"
    ) from error

import numpy as np

from .._errors import WriteError
from ..training import Record
from .folder import RunFolder

#: The tag under which TensorBoard keeps the hyperparameters of a run that has ended.
ENDED = "_hparams_/session_end_info"


class Tracker:
    """Brings a folder for TensorBoard up to the records of runs, one event file for each run and process."""

    def __init__(self, logdir: Path):
        self.logdir = logdir
        self._writers: dict[Path, SummaryWriter] = {}

    def __call__(self, folder: RunFolder) -> None:
        """Brings `logdir`/<run-id>/ up to the records of a run; does nothing if there is no run.

        A record's step is its epoch, and its wall time the start of the run plus the seconds in timings.jsonl, so that
        TensorBoard's relative time is time at work. The configuration and the status go into the table of
        hyperparameters when the run has ended. Raises `WriteError`, and `RunError` if the run is damaged.
        """
        if not folder.started:
            return
        folder.check_whole()
        result, records = folder.result, folder.records()  # in this order: after a result no record follows
        path = self.logdir / folder.path.absolute().name
        try:
            path.mkdir(parents=True, exist_ok=True)
            shown, ended = _shown(path)
            if (first := _first_difference(records, shown)) is not None:
                writer = self._writer(path, first if any(step >= first for step in shown) else None)
                _write(writer, [record for record in records if record["epoch"] >= first], _wall_times(folder))
            if result is not None:
                if path in self._writers:
                    self._writers.pop(path).close()
                if not ended:
                    _write_end(path, folder.description["config"], result["status"])
        except OSError as error:
            raise WriteError(path, error) from error

    def _writer(self, path: Path, purge_step: int | None) -> SummaryWriter:
        """Returns the run's writer; a new one if TensorBoard is to drop everything from `purge_step` on."""
        if purge_step is not None:
            if path in self._writers:
                self._writers.pop(path).close()
            time.sleep(1)  # TensorBoard reads files in the order of their names, which begin with the second
        if path not in self._writers:
            self._writers[path] = SummaryWriter(str(path), purge_step=purge_step)
        return self._writers[path]


def scalars(record: Record) -> Iterator[tuple[str, float]]:
    """Yields the numbers of a record that TensorBoard draws, with `weight_norms` layer by layer.

    >>> dict(scalars({"epoch": 4, "train.nc1": 0.5, "train.weight_norms": [2.0, 3.0], "train.class_counts": [9, 9]}))
    {'train.nc1': 0.5, 'train.weight_norms/0': 2.0, 'train.weight_norms/1': 3.0}
    """
    for key, value in record.items():
        if key.endswith("weight_norms") and isinstance(value, list):
            yield from ((f"{key}/{layer}", norm) for layer, norm in enumerate(value))
        elif isinstance(value, int | float) and key != "epoch":  # the epoch is the step
            yield key, value


def _shown(path: Path) -> tuple[dict[int, dict[str, np.float32]], bool]:
    """Returns the scalars that TensorBoard would show, by step and tag, and whether it has the end of the run."""
    events = EventAccumulator(str(path), size_guidance={"scalars": 0})
    events.Reload()
    shown: dict[int, dict[str, np.float32]] = {}
    for tag in events.Tags()["scalars"]:
        for event in events.Scalars(tag):
            shown.setdefault(event.step, {})[tag] = np.float32(event.value)
    return shown, ENDED in events.summary_metadata


def _first_difference(records: list[Record], shown: dict[int, dict[str, np.float32]]) -> int | None:
    """Returns the first step at which TensorBoard differs from the records; None if it shows them all."""
    expected: dict[int, dict[str, np.float32]] = {}
    for record in records:
        with np.errstate(over="ignore"):
            expected[record["epoch"]] = {tag: np.float32(value) for tag, value in scalars(record)}
    differing = (step for step in sorted({*expected, *shown}) if not _same(expected.get(step), shown.get(step)))
    return next(differing, None)


def _same(first: dict[str, np.float32] | None, second: dict[str, np.float32] | None) -> bool:
    if first is None or second is None or first.keys() != second.keys():
        return False
    return all(np.array_equal(value, second[tag], equal_nan=True) for tag, value in first.items())


def _wall_times(folder: RunFolder) -> dict[int, float]:
    """Returns the time of each record, by epoch."""
    moment, times = (folder.path / "config.json").stat().st_mtime, {}
    for line in folder.timings():
        moment += line["train"] + line["measure"]
        times[line["epoch"]] = moment
    return times


def _write(writer: SummaryWriter, records: list[Record], wall_times: dict[int, float]) -> None:
    for record in records:
        for tag, value in scalars(record):
            writer.add_scalar(tag, value, record["epoch"], walltime=wall_times.get(record["epoch"]))
    writer.flush()


def _write_end(path: Path, config: dict[str, Any], status: str) -> None:
    known = {name: value for name, value in config.items() if value is not None}
    with SummaryWriter(str(path)) as writer:
        writer.add_hparams({**known, "status": status}, {}, run_name=".")
