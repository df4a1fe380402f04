"""Writes a run's folder, in the process that holds its lock."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from filelock import FileLock, Timeout
from torch import Tensor

from .._errors import RunError, WriteError
from .._files import irregular, to_json, write_text
from ..datasets import Dataset
from ..metrics import DEFINITIONS_VERSION
from ..networks import Fingerprint
from ..training import DEFAULTS_VERSION, Record, RunConfig
from .files import damaged, read_lines, write_lines
from .folder import CHECKPOINT, SNAPSHOTS, RunFolder, epoch_of
from .identity import provenance
from .naming import FORMAT
from .schemas import RECORD, TIMING
from .tensors import model_weights, read_tensors, write_tensors


class RunWriter(RunFolder):
    """A run's folder for the process that trains the run."""

    @contextmanager
    def lock(self, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Locks the run for this process. If another process holds the lock, calls `on_wait` and waits for it.

        The lock is released when its process ends. Raises `RunError` if this folder cannot be written to, and
        `WriteError` if the disk cannot.
        """
        lock = FileLock(self.path / ".lock")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            on_wait()
            lock.acquire()
        except (PermissionError, FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            inside = [f"{place} is {irregular(place) or 'a file'}" for place in self.path.parents if place.exists()]
            in_the_way = (
                f"{inside[0]}, not a folder" if inside and not inside[0].endswith("a folder") else error.strerror
            )
            raise RunError(f"{self.path} cannot be written to ({in_the_way}); name another folder") from error
        except OSError as error:  # the disk fails, which other runs share
            raise WriteError(self.path, error) from error
        try:
            yield
        finally:
            lock.release()

    def clear_leftovers(self) -> None:
        """Removes the half-written files of a process that was killed. Only the holder of the lock may do this."""
        for leftover in self.path.glob(".*-*"):
            leftover.unlink()

    def describe(
        self, config: RunConfig, dataset: Dataset, device: str, network: Fingerprint | None, notes: Iterable[str]
    ) -> None:
        """Writes config.json. A different machine or version that resumes the run is added to its provenance."""
        described: dict[str, Any] = {"provenance": [], **(self.description if self.started else {})}
        described.pop("schema", None)  # now `format` and `defaults`
        here = provenance(device)
        if here not in described["provenance"]:
            described["provenance"].append(here)
        described |= {
            "format": FORMAT,
            "defaults": DEFAULTS_VERSION,
            "definitions": DEFINITIONS_VERSION,
            "config": dataclasses.asdict(config),
            "num_classes": dataset.num_classes,
            "data_sha256": dataset.sha256,
            "notes": [*dataset.notes, *notes],
        }
        if network is not None:
            described["network"] = dataclasses.asdict(network)
        write_text(self.path / "config.json", to_json(described, indent=2) + "\n")

    def resume_point(self) -> tuple[dict[str, Tensor], Record] | None:
        """Returns the last checkpoint and the record at or before it. Removes later records: the run makes them again.

        The run must have passed `check_whole`.
        """
        tensors = read_tensors(self.path / CHECKPOINT)
        epoch = -1 if (reached := self.checkpoint_epoch()) is None else reached
        kept: list[Record] = []
        for name, keys in (("timings.jsonl", TIMING), ("records.jsonl", RECORD)):
            kept = [line for line in read_lines(self.path / name, keys) if line["epoch"] <= epoch]
            write_lines(self.path / name, kept)
        if tensors and not kept:
            raise damaged(self.path / "records.jsonl", "it lacks epoch 0")
        if shown := self._readable_snapshots():
            write_tensors(self.path / SNAPSHOTS, {name: t for name, t in shown.items() if epoch_of(name) <= epoch})
        return (tensors, kept[-1]) if tensors else None

    def append(self, record: Record, seconds: dict[str, float], snapshot: dict[str, Tensor]) -> None:
        """Adds a record with its seconds and its snapshot."""
        named = {f"{record['epoch']}.{name}": tensor for name, tensor in snapshot.items()}
        write_tensors(self.path / SNAPSHOTS, {**self._readable_snapshots(), **named})
        write_lines(self.path / "records.jsonl", [*self.records(), record])
        write_lines(self.path / "timings.jsonl", [*self.timings(), {"epoch": record["epoch"], **seconds}])

    def save_checkpoint(self, tensors: dict[str, Tensor]) -> None:
        """Writes the weights and the optimiser state, in place of the last checkpoint."""
        write_tensors(self.path / CHECKPOINT, tensors)

    def finish(self, tensors: dict[str, Tensor], result: dict[str, Any]) -> None:
        """Writes how the run ended, after the weights of a finished one."""
        if result["status"] == "finished":
            write_tensors(self.path / "model.safetensors", model_weights(tensors))
        write_text(self.path / "result.json", to_json(result, indent=2) + "\n")

    def _readable_snapshots(self) -> dict[str, Tensor]:
        try:
            return read_tensors(self.path / SNAPSHOTS)
        except RunError:  # no number depends on the snapshots: the run is whole without them, and later ones are kept
            return {}
