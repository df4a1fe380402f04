"""One run's folder: read, checked, and written by the process that holds its lock."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from torch import Tensor

from .._errors import RunError, WriteError
from .._files import to_json, write_text
from .._html import html_table
from ..datasets import Dataset
from ..metrics import DEFINITIONS_VERSION
from ..training import Record, RunConfig, recorded_epochs
from .files import damaged, missing, read_json, read_lines, read_tensors, write_lines, write_tensors
from .identity import SCHEMA_VERSION, provenance
from .networks_tried import Fingerprint

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

_SNAPSHOTS = "snapshots.safetensors"

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

    @contextmanager
    def lock(self, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Held by the process that works on the run; another calls `on_wait` and waits. It falls with its process.

        Raises `RunError` where this folder cannot be written to, and `WriteError` where the disk cannot.
        """
        lock = FileLock(self.path / ".lock")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            on_wait()
            lock.acquire()
        except (PermissionError, FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise RunError(f"{self.path} cannot be written to ({error.strerror}); name another folder") from error
        except OSError as error:  # of the disk, which other runs share
            raise WriteError(self.path, error) from error
        try:
            yield
        finally:
            lock.release()

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

    def weights(self) -> dict[str, Tensor]:
        """The last weights of a finished run by the names of the network's parameters; none of another."""
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
        tensors = read_tensors(self.path / _SNAPSHOTS)
        for name, tensor in sorted(tensors.items(), key=lambda item: _epoch_of(item[0])):
            found.setdefault(_epoch_of(name), {})[name.partition(".")[2]] = tensor.numpy()
        return found

    def _readable_snapshots(self) -> dict[str, Tensor]:
        try:
            return read_tensors(self.path / _SNAPSHOTS)
        except RunError:  # no number depends on it: the run is whole without, and those to come are kept
            return {}

    def checkpoint_epoch(self) -> int | None:
        """The epoch that the run would go on from, or None where it would begin again."""
        epoch = read_tensors(self.path / "checkpoint.safetensors", names=("epoch",)).get("epoch")
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
            read_tensors(model, names=())
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

    def clear_leftovers(self) -> None:
        """Remove the half-written files of a process that was killed. Only for the holder of the lock."""
        for leftover in self.path.glob(".*-*"):
            leftover.unlink()

    def describe(
        self, config: RunConfig, dataset: Dataset, device: str, network: Fingerprint | None, notes: Iterable[str]
    ) -> None:
        """Write config.json; another machine or version that goes on with the run is added to its provenance."""
        described: dict[str, Any] = {"provenance": [], **(read_json(self.path / "config.json") or {})}
        here = provenance(device)
        if here not in described["provenance"]:
            described["provenance"].append(here)
        described |= {
            "schema": SCHEMA_VERSION,
            "definitions": DEFINITIONS_VERSION,
            "config": dataclasses.asdict(config),
            "num_classes": dataset.num_classes,
            "data_sha256": dataset.sha256,
            "notes": [*dataset.notes, *notes],
        }
        if network is not None:
            described["network"] = dataclasses.asdict(network)
        write_text(self.path / "config.json", to_json(described, indent=2) + "\n")

    def check_same(self, dataset: Dataset, network: Fingerprint | None) -> None:
        """`RunError` where the run was made from other data or another network, or its keys meant something else."""
        described = read_json(self.path / "config.json")
        if described is None:
            return
        remedy = "name another folder, or delete that one"
        for name, now in (("data_sha256", dataset.sha256), ("definitions", DEFINITIONS_VERSION)):
            if described.get(name) != now:
                raise RunError(f"{self.path} was made with {name} {described.get(name)}, and now it is {now}; {remedy}")
        then = described.get("network")
        if network is not None and then and not network.matches(Fingerprint(then["sha256"], tuple(then["outputs"]))):
            raise RunError(
                f"{self.path} was made with another network: {described['config']['network']} has changed since; "
                f"change it back, {remedy}"
            )

    def resume_point(self) -> tuple[dict[str, Tensor], Record] | None:
        """The last checkpoint and the record at or before it. Later records are cut: they will be made again.

        Of a whole run, as `check_whole` finds it.
        """
        tensors = read_tensors(self.path / "checkpoint.safetensors")
        epoch = int(tensors.get("epoch", -1))
        kept: list[Record] = []
        for name in ("timings.jsonl", "records.jsonl"):
            kept = [line for line in read_lines(self.path / name) if line["epoch"] <= epoch]
            write_lines(self.path / name, kept)
        if shown := self._readable_snapshots():
            write_tensors(self.path / _SNAPSHOTS, {name: t for name, t in shown.items() if _epoch_of(name) <= epoch})
        return (tensors, kept[-1]) if tensors else None

    def append(self, record: Record, seconds: dict[str, float], snapshot: dict[str, Tensor]) -> None:
        named = {f"{record['epoch']}.{name}": tensor for name, tensor in snapshot.items()}
        write_tensors(self.path / _SNAPSHOTS, {**self._readable_snapshots(), **named})
        write_lines(self.path / "records.jsonl", [*self.records(), record])
        write_lines(self.path / "timings.jsonl", [*self.timings(), {"epoch": record["epoch"], **seconds}])

    def save_checkpoint(self, tensors: dict[str, Tensor]) -> None:
        write_tensors(self.path / "checkpoint.safetensors", tensors)

    def finish(self, tensors: dict[str, Tensor], result: dict[str, Any]) -> None:
        if result["status"] == "finished":
            write_tensors(self.path / "model.safetensors", model_weights(tensors))
        write_text(self.path / "result.json", to_json(result, indent=2) + "\n")


def model_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The network's own tensors of a `State`, by the names of its parameters."""
    prefix = "model."
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _epoch_of(name: str) -> int:
    """Of a tensor in snapshots.safetensors, `12.samples` for one."""
    return int(name.partition(".")[0])
