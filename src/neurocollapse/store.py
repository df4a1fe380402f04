"""A run on disk: written atomically, checked for damage, and told apart from others.

    OUT/<run-id>/config.json             the configuration and where it ran (`provenance`)
                 records.jsonl           a line per measured epoch
                 timings.jsonl           its seconds, apart so that records compare bit for bit
                 snapshots.safetensors   of each of them a few samples and Gram matrices, for a report
                 checkpoint.safetensors  weights and optimiser state at the last saved epoch
                 model.safetensors       the weights, once the run has ended well
                 result.json             how it ended; a run that has one is not run again

Every file is written beside its place and renamed, so a killed process leaves the last whole state.
"""

import dataclasses
import hashlib
import json
import math
import platform
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from . import __version__
from .atomic import WriteError, atomic_path
from .datasets import Dataset
from .metrics import DEFINITIONS_VERSION
from .probing import Fingerprint
from .rendering import html_table
from .training import Record, RunConfig, recorded_epochs

#: Changes when the same configuration would give another run: new defaults, another order of random numbers.
SCHEMA_VERSION = 2


#: Of a .safetensors file's metadata: the checksum of its tensors.
_CHECKSUM = "sha256"

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

#: Files that only a run has, or its first one.
_TRACES = ("config.json", "records.jsonl", "checkpoint.safetensors", "result.json")


class StoreError(ValueError):
    """A folder that is not what it should be; the message says what to do."""


def run_id(config: RunConfig, dataset: Dataset) -> str:
    """A readable name and a hash of what differs from the defaults; free of paths, device and threads.

    A data file counts by its content, so that moving it changes nothing and editing it makes another run.
    """
    values = dataclasses.asdict(config)
    if Path(config.dataset).suffix:
        values["dataset"] = dataset.sha256
    defaults = dataclasses.asdict(RunConfig())
    different = {
        name: float(value) if isinstance(defaults[name], float) else value  # λ = 0 is λ = 0.0
        for name, value in sorted(values.items())
        if value != defaults[name]
    }
    digest = hashlib.sha256(json.dumps([SCHEMA_VERSION, different]).encode()).hexdigest()[:8]
    network = config.network.replace(":", ".")
    return f"{Path(config.dataset).stem}-{network}-wd{config.weight_decay:g}-seed{config.seed}-{digest}"


def write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def to_json(value: Any, **options: Any) -> str:
    """Strict JSON: numbers that it lacks become the strings "nan", "inf", "-inf"."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [plain(inner) for inner in value]
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(plain(value), allow_nan=False, ensure_ascii=False, **options)


class RunFolder:
    """One run's files: its `config`, `status`, `records()` and `weights()`. In a notebook, a table.

    What is asked of it is read at that moment, so a run that is being trained is shown as far as it is. Raises
    `StoreError`, then and not before, where a file is damaged.

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
        except StoreError as error:
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

        Raises `StoreError` where this folder cannot be written to, and `WriteError` where the disk cannot.
        """
        lock = FileLock(self.path / ".lock")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            on_wait()
            lock.acquire()
        except (PermissionError, FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise StoreError(f"{self.path} cannot be written to ({error.strerror}); name another folder") from error
        except OSError as error:  # of the disk, which other runs share
            raise WriteError(self.path, error) from error
        try:
            yield
        finally:
            lock.release()

    @property
    def result(self) -> dict[str, Any] | None:
        """How the run ended, or None while it has not."""
        return self._read_json("result.json", "status")

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
        described = self._read_json("config.json")
        if described is None:
            raise _missing(self.path / "config.json")
        if "num_classes" not in described or "epochs" not in described.get("config", ()):
            raise StoreError(f"{self.path} is not a run: its config.json is not of one; name a folder that --out made")
        return described

    @property
    def config(self) -> RunConfig:
        """The configuration of the run. Raises `StoreError` where it is of another version of this package."""
        try:
            return RunConfig(**self.description["config"])
        except (TypeError, ValueError) as error:
            raise StoreError(f"{self.path} was made by another version of neurocollapse ({error}); use that") from error

    def weights(self) -> dict[str, Tensor]:
        """The last weights of a finished run by the names of the network's parameters; none of another."""
        return _tensors(self.path / "model.safetensors")

    @property
    def weights_digest(self) -> str:
        """SHA-256 of the last weights as they are on disk; empty where there are none."""
        path = self.path / "model.safetensors"
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""

    def records(self) -> list[Record]:
        return _read_lines(self.path / "records.jsonl")

    def timings(self) -> list[dict[str, Any]]:
        """Seconds since the record before, to `train` and to `measure`, for each record."""
        return _read_lines(self.path / "timings.jsonl")

    def snapshots(self) -> dict[int, dict[str, np.ndarray]]:
        """What is kept to be looked at, by epoch: see `training.snapshot`. Empty for a run of before they were kept."""
        found: dict[int, dict[str, np.ndarray]] = {}
        for name, tensor in sorted(self._snapshots().items(), key=lambda item: _epoch_of(item[0])):
            found.setdefault(_epoch_of(name), {})[name.partition(".")[2]] = tensor.numpy()
        return found

    def _snapshots(self) -> dict[str, Tensor]:
        return _tensors(self.path / "snapshots.safetensors")

    def checkpoint_epoch(self) -> int | None:
        """The epoch that the run would go on from, or None where it would begin again."""
        epoch = _tensors(self.path / "checkpoint.safetensors", names=("epoch",)).get("epoch")
        return None if epoch is None else int(epoch)

    def check_whole(self) -> None:
        """`StoreError` where a run that was begun lacks a file or a record, or one cannot be read.

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
            _tensors(self.path / "snapshots.safetensors", names=())
            # Written before the last checkpoint. Looked for again: the run may have ended in between.
            if last == epochs and self.result is None:
                raise _missing(self.path / "result.json")
        else:
            last = result.get("epoch")  # none for a run that diverged
        model = self.path / "model.safetensors"
        if result and result["status"] == "finished":
            if not model.exists():
                raise _missing(model)
            _tensors(model, names=())
        due = {epoch for epoch in recorded_epochs(epochs) if last is not None and epoch <= last}
        if lacking := due - {record["epoch"] for record in self.records()}:
            raise _damaged(self.path / "records.jsonl", f"it lacks epoch {min(lacking)}")

    def _check_version(self, described: dict[str, Any]) -> None:
        unknown = sorted(described["config"].keys() - {field.name for field in dataclasses.fields(RunConfig)})
        schema = described.get("schema", SCHEMA_VERSION)
        if unknown:
            reason = f"its config.json has the unknown field {unknown[0]!r}"
        elif schema != SCHEMA_VERSION:
            reason = f"its schema is {schema}, and that of this version {SCHEMA_VERSION}"
        else:
            return
        raise StoreError(
            f"{self.path} was made by another version of neurocollapse ({reason}); use that, or name another folder"
        )

    @property
    def damage(self) -> str | None:
        """What `check_whole` has to say."""
        try:
            self.check_whole()
        except StoreError as error:
            return str(error)
        return None

    def _read_json(self, name: str, *keys: str) -> dict[str, Any] | None:
        path = self.path / name
        if not path.exists():
            return None
        try:
            return _object(path.read_text(encoding="utf-8"), *keys)
        except (ValueError, OSError) as error:
            raise _damaged(path, error) from error

    def clear_leftovers(self) -> None:
        """Remove the half-written files of a process that was killed. Only for the holder of the lock."""
        for leftover in self.path.glob(".*-*"):
            leftover.unlink()

    def describe(
        self, config: RunConfig, dataset: Dataset, device: str, network: Fingerprint | None, notes: Iterable[str]
    ) -> None:
        """Write config.json; another machine or version that goes on with the run is added to its provenance."""
        described: dict[str, Any] = {"provenance": [], **(self._read_json("config.json") or {})}
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
        """`StoreError` where the run was made from other data or another network, or its keys meant something else."""
        described = self._read_json("config.json")
        if described is None:
            return
        remedy = "name another folder with --out, or delete that one"
        for name, now in (("data_sha256", dataset.sha256), ("definitions", DEFINITIONS_VERSION)):
            if described.get(name) != now:
                raise StoreError(
                    f"{self.path} was made with {name} {described.get(name)}, and now it is {now}; {remedy}"
                )
        then = described.get("network")
        if network is not None and then and not network.matches(Fingerprint(then["sha256"], tuple(then["outputs"]))):
            raise StoreError(
                f"{self.path} was made with another network: {described['config']['network']} has changed since; "
                f"change it back, {remedy}"
            )

    def resume_point(self) -> tuple[dict[str, Tensor], Record] | None:
        """The last checkpoint and the record at or before it. Later records are cut: they will be made again.

        Of a whole run, as `check_whole` finds it.
        """
        tensors = _tensors(self.path / "checkpoint.safetensors")
        epoch = int(tensors.get("epoch", -1))
        kept: list[Record] = []
        for name in ("timings.jsonl", "records.jsonl"):
            kept = [line for line in _read_lines(self.path / name) if line["epoch"] <= epoch]
            self._write_lines(name, kept)
        if shown := self._snapshots():
            self._save("snapshots.safetensors", {name: t for name, t in shown.items() if _epoch_of(name) <= epoch})
        return (tensors, kept[-1]) if tensors else None

    def _write_lines(self, name: str, lines: Iterable[dict[str, Any]]) -> None:
        write_text(self.path / name, "".join(to_json(line) + "\n" for line in lines))

    def append(self, record: Record, seconds: dict[str, float], snapshot: dict[str, Tensor]) -> None:
        named = {f"{record['epoch']}.{name}": tensor for name, tensor in snapshot.items()}
        self._save("snapshots.safetensors", {**self._snapshots(), **named})
        self._write_lines("records.jsonl", [*self.records(), record])
        self._write_lines("timings.jsonl", [*self.timings(), {"epoch": record["epoch"], **seconds}])

    def save_checkpoint(self, tensors: dict[str, Tensor]) -> None:
        self._save("checkpoint.safetensors", tensors)

    def finish(self, tensors: dict[str, Tensor], result: dict[str, Any]) -> None:
        if result["status"] == "finished":
            prefix = "model."
            weights = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            self._save("model.safetensors", weights)
        write_text(self.path / "result.json", to_json(result, indent=2) + "\n")

    def _save(self, name: str, tensors: dict[str, Tensor]) -> None:
        with atomic_path(self.path / name) as temporary:
            # Copies, since safetensors refuses tensors that share memory, as tied weights do.
            copies = {key: t.detach().clone(memory_format=torch.contiguous_format) for key, t in tensors.items()}
            try:
                safetensors.torch.save_file(copies, temporary, metadata={_CHECKSUM: _checksum(copies)})
            except safetensors.SafetensorError as error:  # what it makes of a full disk
                raise OSError(str(error)) from error


def _epoch_of(name: str) -> int:
    """Of a tensor in snapshots.safetensors, `12.samples` for one."""
    return int(name.partition(".")[0])


def _damaged(path: Path, reason: object) -> StoreError:
    return StoreError(f"{path} is damaged ({reason}); delete {path.parent} to run it again")


def _missing(path: Path) -> StoreError:
    return StoreError(f"{path} is missing; delete {path.parent} to run it again")


def _tensors(path: Path, names: Iterable[str] | None = None) -> dict[str, Tensor]:
    """The tensors of these names, or all, in a .safetensors file that must be whole; none where there is no file.

    All of them must have the checksum that was written with them, where there is one.
    """
    if not path.exists():
        return {}
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in (file.keys() if names is None else names)}
            written = (file.metadata() or {}).get(_CHECKSUM)
    except (safetensors.SafetensorError, OSError) as error:
        raise _damaged(path, error) from error
    if names is None and written is not None and written != _checksum(tensors):
        raise _damaged(path, "its checksum is another")
    return tensors


def _checksum(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of names, kinds, shapes and bytes: safetensors sees that a file was cut, not that a bit has changed."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file, with the strings that `to_json` made of numbers turned back."""
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise _damaged(path, error) from error
    lines = []
    # Not splitlines, which also splits at characters that JSON strings may hold.
    for number, line in enumerate(content.removesuffix(b"\n").split(b"\n") if content else (), start=1):
        try:
            values = _object(line.decode(), "epoch")
        except ValueError as error:
            raise _damaged(path, f"line {number}: {error}") from error
        lines.append({key: _numbers(value) for key, value in values.items()})
    return lines


def _numbers(value: Any) -> Any:
    """Turn back what `to_json` made strings of."""
    if isinstance(value, list):
        return [_numbers(inner) for inner in value]
    return float(value) if value in ("nan", "inf", "-inf") else value


def _object(text: str, *keys: str) -> dict[str, Any]:
    values = json.loads(text)
    if not isinstance(values, dict) or any(key not in values for key in keys):
        raise ValueError(f"it is not a JSON object{''.join(f' with {key!r}' for key in keys)}")
    return values


def provenance(device: str) -> dict[str, Any]:
    """What the bits of a run depend on beside its configuration."""
    return {
        "neurocollapse": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "threads": torch.get_num_threads(),
    }
