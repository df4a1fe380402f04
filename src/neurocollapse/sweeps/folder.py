"""One run's folder, read and checked, without loading torch."""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._errors import RunError
from .._html import html_table
from ..training import Record, RunConfig, recorded_epochs
from .files import damaged, missing, read_arrays, read_json, read_lines

if TYPE_CHECKING:
    from torch import Tensor

#: Changes when the same configuration would give another run: new defaults, another order of random numbers.
SCHEMA_VERSION = 2

#: What is shown of a run's last record. The objective is `train.loss` with the square loss, and `train.objective` with
#: another.
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

#: Files that only a run has, or its first one.
_TRACES = ("config.json", "records.jsonl", "checkpoint.safetensors", "result.json")


class RunFolder:
    """One run's files: its `config`, `status`, `records()` and `weights()`. In a notebook, a table.

    What is asked of it is read at that moment, so a run that is being trained is shown as far as it is. Raises
    `RunError`, then and not before, where a file is damaged.

    >>> RunFolder("results/nothing").begun
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
        if not self.begun:
            yield "status", "there is no run here"
            return
        self.check_whole()
        config, result, records = self.config, self.result or {"status": "unfinished"}, self.records()
        last = records[-1] if records else {"epoch": 0}
        yield "status", f"{result['status']} at epoch {last['epoch']} of {config.epochs}"
        if "message" in result:
            yield "message", result["message"]
        yield from ((name, str(value)) for name, value in config.changed.items())
        yield from ((key, f"{last[key]:.6g}") for key in HEADLINES if last.get(key) is not None)

    @property
    def result(self) -> dict[str, Any] | None:
        """How the run ended, or None while it has not."""
        return read_json(self.path / "result.json", "status")

    @property
    def begun(self) -> bool:
        """Whether there is anything of a run."""
        return any((self.path / name).exists() for name in _TRACES)

    @property
    def status(self) -> str:
        """finished, diverged or unfinished."""
        return (self.result or {"status": "unfinished"})["status"]

    @property
    def description(self) -> dict[str, Any]:
        """What config.json holds."""
        described = read_json(self.path / "config.json")
        if described is None:
            raise missing(self.path / "config.json")
        config = described.get("config")
        if "num_classes" not in described or not isinstance(config, dict) or "epochs" not in config:
            raise RunError(f"{self.path} is not a run: its config.json is not of one; name the folder of a run")
        return described

    @property
    def config(self) -> RunConfig:
        """The configuration of the run. Raises `RunError` where it is of another version of this package."""
        try:
            return RunConfig(**self.description["config"])
        except (TypeError, ValueError) as error:
            raise RunError(f"{self.path} was made by another version of neurocollapse ({error}); use that") from error

    def weights(self) -> "dict[str, Tensor]":
        """The last weights of a finished run by the names of the network's parameters; none of another."""
        from .tensors import read_tensors

        return read_tensors(self.path / "model.safetensors")

    @property
    def weights_digest(self) -> str:
        """SHA-256 of the last weights as they are on disk; empty where there are none."""
        path = self.path / "model.safetensors"
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""

    def records(self) -> list[Record]:
        return read_lines(self.path / "records.jsonl")

    def timings(self) -> list[dict[str, Any]]:
        """Seconds since the record before, to `train` and to `measure`, for each record."""
        return read_lines(self.path / "timings.jsonl")

    def snapshots(self) -> dict[int, dict[str, np.ndarray]]:
        """What is kept to be looked at, by epoch: see `training.snapshot`."""
        found: dict[int, dict[str, np.ndarray]] = {}
        arrays = read_arrays(self.path / SNAPSHOTS)
        for name, array in sorted(arrays.items(), key=lambda item: epoch_of(item[0])):
            found.setdefault(epoch_of(name), {})[name.partition(".")[2]] = array
        return found

    def checkpoint_epoch(self) -> int | None:
        """The epoch that the run would go on from, or None where it would begin again."""
        epoch = read_arrays(self.path / "checkpoint.safetensors", names=("epoch",)).get("epoch")
        return None if epoch is None else int(epoch)

    def check_whole(self) -> None:
        """`RunError` where a run that was begun lacks a file or a record, or one cannot be read.

        Or not by this version: of a newer one, fields it does not know may say what its numbers mean. What is read in
        full, the weights and the checkpoint, is compared with its checksum then, and not here.
        """
        if not self.begun:
            return
        described = self.description
        self._check_version(described)
        epochs = described["config"]["epochs"]
        # Another process may be at work, so each file is read before those that it writes first.
        result = self.result
        if result is None:
            last = self.checkpoint_epoch()
            self.timings()
            # Written before the last checkpoint. Looked for again: the run may have ended in between.
            if last == epochs and self.result is None:
                raise missing(self.path / "result.json")
        else:
            last = result.get("epoch")  # none for a run that diverged
        model = self.path / "model.safetensors"
        if result and result["status"] == "finished":
            if not model.exists():
                raise missing(model)
            read_arrays(model, names=())
        due = {epoch for epoch in recorded_epochs(epochs) if last is not None and epoch <= last}
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
        """What `check_whole` has to say."""
        try:
            self.check_whole()
        except RunError as error:
            return str(error)
        return None


def epoch_of(name: str) -> int:
    """Of a tensor in snapshots.safetensors, `12.samples` for one."""
    return int(name.partition(".")[0])
