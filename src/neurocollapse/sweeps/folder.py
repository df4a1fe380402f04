"""Reads and checks the folder of one run, without loading torch."""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._errors import RunError, checks_arguments, did_you_mean
from .._html import html_table
from ..training import Record, RunConfig, last_epoch, recorded_epochs
from .files import damaged, missing, read_arrays, read_json, read_lines

if TYPE_CHECKING:
    from torch import Tensor

#: It changes when the same configuration would give a different run: new defaults, another order of random numbers.
SCHEMA_VERSION = 2

#: The keys of a run's last record that are shown. The objective is `train.loss` with the square loss, and
#: `train.objective` with another.
HEADLINES = (
    "terminal_phase_start",
    "train.accuracy",
    "test.accuracy",
    "train.loss",
    "train.objective",
    "train.nc1",
    "train.nc3",
    "train.nc4",
)

SNAPSHOTS = "snapshots.safetensors"

#: Files that show that a folder holds a run: at least its first one.
_TRACES = ("config.json", "records.jsonl", "checkpoint.safetensors", "result.json")


@checks_arguments
class RunFolder:
    """The files of one run: its `config`, `status`, `records()` and `weights()`. A notebook shows it as a table.

    Each value is read from disk when it is used, so a run in training shows what it has reached. A damaged file raises
    `RunError` at that moment, not before.

    >>> RunFolder("results/nothing").started
    False
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    def _repr_html_(self) -> str:
        try:
            rows = list(self._rows())
        except RunError as error:
            rows = [("damaged", str(error))]
        return html_table(self.path.absolute().name, rows)

    def _rows(self) -> Iterator[tuple[str, str]]:
        if not self.started:
            yield "status", "there is no run here"
            return
        self.check_whole()
        config, result, records = self.config, self.result or {"status": "unfinished"}, self.records()
        last = records[-1] if records else {"epoch": 0}
        yield "status", f"{result['status']} at epoch {last['epoch']} of {last_epoch(config)}"
        if "message" in result:
            yield "message", result["message"]
        yield from ((name, str(value)) for name, value in config.changed.items())
        yield from ((key, f"{last[key]:.6g}") for key in HEADLINES if last.get(key) is not None)

    @property
    def result(self) -> dict[str, Any] | None:
        """How the run ended, or None if it has not."""
        return read_json(self.path / "result.json", "status")

    @property
    def started(self) -> bool:
        """Whether the folder holds any file of a run."""
        return any((self.path / name).exists() for name in _TRACES)

    @property
    def status(self) -> str:
        """The state of the run: finished, diverged or unfinished. Raises `RunError` if there is no run."""
        if not self.started:
            raise no_run(self.path)
        return (self.result or {"status": "unfinished"})["status"]

    @property
    def description(self) -> dict[str, Any]:
        """The content of config.json."""
        described = read_json(self.path / "config.json")
        if described is None:
            raise missing(self.path / "config.json")
        config = described.get("config")
        if "num_classes" not in described or not isinstance(config, dict) or "epochs" not in config:
            raise RunError(f"{self.path} is not a run: its config.json is not of one; name the folder of a run")
        return described

    @property
    def config(self) -> RunConfig:
        """The configuration of the run. Raises `RunError` if another version of this package wrote it."""
        described = self.description["config"]
        try:
            return RunConfig(**described)
        except (TypeError, ValueError) as error:
            raise RunError(f"{self.path} was made by another version of neurocollapse ({error}); use that") from error

    def weights(self) -> "dict[str, Tensor]":
        """Returns the last weights of a finished run by parameter name; an empty dict if the run has not finished."""
        from .tensors import read_tensors

        return read_tensors(self.path / "model.safetensors")

    @property
    def weights_digest(self) -> str:
        """The SHA-256 of the last weights as they are on disk; empty if there are none."""
        path = self.path / "model.safetensors"
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""

    def records(self) -> list[Record]:
        """Returns the record of every measured epoch."""
        return read_lines(self.path / "records.jsonl")

    def timings(self) -> list[dict[str, Any]]:
        """Returns, for each record, the seconds spent to `train` and to `measure` since the one before."""
        return read_lines(self.path / "timings.jsonl")

    def snapshots(self) -> dict[int, dict[str, np.ndarray]]:
        """Returns the samples and Gram matrices kept for a report, by epoch: see `training.snapshot`."""
        found: dict[int, dict[str, np.ndarray]] = {}
        arrays = read_arrays(self.path / SNAPSHOTS)
        for name, array in sorted(arrays.items(), key=lambda item: epoch_of(item[0])):
            found.setdefault(epoch_of(name), {})[name.partition(".")[2]] = array
        return found

    def checkpoint_epoch(self) -> int | None:
        """Returns the epoch from which the run would resume, or None if it would start again."""
        epoch = read_arrays(self.path / "checkpoint.safetensors", names=("epoch",)).get("epoch")
        return None if epoch is None else int(epoch)

    def check_whole(self) -> None:
        """Raises `RunError` if a run that was started lacks a file or a record, or if one cannot be read.

        Raises it too for a run of a newer version, whose unknown fields may change what the numbers mean. The checksums
        of weights and checkpoint are compared when those are read, not here.
        """
        if not self.started:
            return
        described = self.description
        self._check_version(described)
        config = self.config
        # Another process may be writing, so the files are read in the reverse of its order.
        result = self.result
        if result is None:
            last = self.checkpoint_epoch()
            self.timings()
            # result.json is written before the last checkpoint. Look again, since the run may have ended in between.
            if last == last_epoch(config) and self.result is None:
                raise missing(self.path / "result.json")
        else:
            last = result.get("epoch")  # a run that diverged has none
        model = self.path / "model.safetensors"
        if result and result["status"] == "finished":
            if not model.exists():
                raise missing(model)
            read_arrays(model, names=())
        due = {epoch for epoch in recorded_epochs(config) if last is not None and epoch <= last}
        if lacking := due - {record["epoch"] for record in self.records()}:
            raise damaged(self.path / "records.jsonl", f"it lacks epoch {min(lacking)}")

    def _check_version(self, described: dict[str, Any]) -> None:
        unknown = sorted(described["config"].keys() - {field.name for field in dataclasses.fields(RunConfig)})
        schema = described.get("schema", SCHEMA_VERSION)
        if unknown:
            reason = f"its config.json has the unknown field {unknown[0]!r}"
        elif schema != SCHEMA_VERSION:
            reason = f"its schema is {schema}, and that of this version {SCHEMA_VERSION}"
        else:
            return
        raise RunError(
            f"{self.path} was made by another version of neurocollapse ({reason}); use that, or name another folder"
        )

    @property
    def damage(self) -> str | None:
        """The message of the error that `check_whole` raises, or None if the run is whole."""
        try:
            self.check_whole()
        except RunError as error:
            return str(error)
        return None


def no_run(path: Path) -> RunError:
    """Returns the error for a path that is no folder, or a folder without a run; it names the nearest beside it."""
    if path.is_dir():
        return RunError(f"there is no run in {path}; name the folder of one")
    if path.exists():
        return RunError(f"{path} is a file, not a folder")
    beside = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
    return RunError(f"there is no folder {path}{did_you_mean(path.name, beside)}")


def epoch_of(name: str) -> int:
    """Returns the epoch in the name of a tensor in snapshots.safetensors, such as 12 for `12.samples`."""
    return int(name.partition(".")[0])
