"""Runs on disk: written atomically, resumable, and read back as one table.

    OUT/<run-id>/config.json             the configuration and where it ran (`provenance`)
                 records.jsonl           a line per measured epoch
                 timings.jsonl           its seconds, apart so that records compare bit for bit
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
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors
import safetensors.torch
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from . import __version__
from .atomic import atomic_path
from .datasets import Dataset
from .metrics import DEFINITIONS_VERSION
from .training import DivergedError, Record, RunConfig, State, train

#: Changes when the same configuration would give another run: new defaults, another order of random numbers.
SCHEMA_VERSION = 2

#: A long epoch is not lost for want of a record: a checkpoint is written at least this often.
CHECKPOINT_SECONDS = 20.0


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
    """One run's files."""

    def __init__(self, path: Path):
        self.path = path

    @contextmanager
    def lock(self, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Held by the process that works on the run; another calls `on_wait` and waits. It falls with its process."""
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            on_wait()
            lock.acquire()
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
        """Whether there is anything to read."""
        return (self.path / "config.json").exists()

    @property
    def status(self) -> str:
        """finished, diverged or unfinished."""
        return (self.result or {"status": "unfinished"})["status"]

    @property
    def description(self) -> dict[str, Any]:
        """What config.json holds."""
        described = self._read_json("config.json")
        if described is None or "config" not in described:
            raise StoreError(f"{self.path} is not a run: it has no config.json of one; name a folder that --out made")
        return described

    def records(self) -> list[Record]:
        return _read_lines(self.path / "records.jsonl")

    def _read_json(self, name: str, *keys: str) -> dict[str, Any] | None:
        path = self.path / name
        if not path.exists():
            return None
        try:
            return _object(path.read_text(encoding="utf-8"), *keys)
        except ValueError as error:
            raise StoreError(f"{path} is damaged ({error}); delete {self.path} to run it again") from error

    def clear_leftovers(self) -> None:
        """Remove the half-written files of a process that was killed. Only for the holder of the lock."""
        for leftover in self.path.glob(".*-*"):
            leftover.unlink()

    def describe(self, config: RunConfig, dataset: Dataset, device: str) -> None:
        """Write config.json; another machine or version that goes on with the run is added to its provenance."""
        described: dict[str, Any] = {"provenance": [], **(self._read_json("config.json") or {})}
        self.check_same(dataset)
        here = provenance(device)
        if here not in described["provenance"]:
            described["provenance"].append(here)
        described |= {
            "schema": SCHEMA_VERSION,
            "definitions": DEFINITIONS_VERSION,
            "config": dataclasses.asdict(config),
            "num_classes": dataset.num_classes,
            "data_sha256": dataset.sha256,
            "notes": list(dataset.notes),
        }
        write_text(self.path / "config.json", to_json(described, indent=2) + "\n")

    def check_same(self, dataset: Dataset) -> None:
        """`StoreError` where the run was made from other data, or its keys meant something else."""
        described = self._read_json("config.json")
        if described is None:
            return
        for name, now in (("data_sha256", dataset.sha256), ("definitions", DEFINITIONS_VERSION)):
            if described.get(name) != now:
                raise StoreError(
                    f"{self.path} was made with {name} {described.get(name)}, and now it is {now}; "
                    f"name another folder with --out, or delete that one"
                )

    def resume_point(self) -> tuple[dict[str, Tensor], Record] | None:
        """The last checkpoint and the record at or before it. Later records are cut: they will be made again."""
        checkpoint = self.path / "checkpoint.safetensors"
        if not checkpoint.exists():
            self._write_lines("records.jsonl", [])
            self._write_lines("timings.jsonl", [])
            return None
        try:
            tensors = safetensors.torch.load_file(checkpoint)
            epoch = int(tensors["epoch"])
        except (safetensors.SafetensorError, KeyError) as error:
            raise StoreError(f"{checkpoint} is damaged ({error}); delete {self.path} to run it again") from error
        kept: list[Record] = []
        for name in ("timings.jsonl", "records.jsonl"):
            kept = [line for line in _read_lines(self.path / name) if line["epoch"] <= epoch]
            self._write_lines(name, kept)
        if not kept:
            raise StoreError(
                f"{self.path / 'records.jsonl'} lacks the records up to the checkpoint, of epoch {epoch}; "
                f"delete {self.path} to run it again"
            )
        return tensors, kept[-1]

    def _write_lines(self, name: str, lines: Iterable[dict[str, Any]]) -> None:
        write_text(self.path / name, "".join(to_json(line) + "\n" for line in lines))

    def append(self, record: Record, seconds: dict[str, float]) -> None:
        self._write_lines("records.jsonl", [*self.records(), record])
        timings = _read_lines(self.path / "timings.jsonl")
        self._write_lines("timings.jsonl", [*timings, {"epoch": record["epoch"], **seconds}])

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
            safetensors.torch.save_file(copies, temporary)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file, with the strings that `to_json` made of numbers turned back."""
    if not path.exists() or not path.stat().st_size:
        return []
    lines = []
    # Not splitlines, which also splits at characters that JSON strings may hold.
    for number, line in enumerate(path.read_bytes().removesuffix(b"\n").split(b"\n"), start=1):
        try:
            values = _object(line.decode(), "epoch")
        except ValueError as error:
            raise StoreError(
                f"line {number} of {path} is damaged ({error}); delete {path.parent} to run it again"
            ) from error
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


def execute(
    config: RunConfig,
    dataset: Dataset,
    out: Path,
    *,
    device: str = "cpu",
    on_state: Callable[[State], None] = lambda state: None,
    on_wait: Callable[[], None] = lambda: None,
) -> RunFolder:
    """Train into `out`/<run-id>: resume what was begun, leave alone what is finished.

    `on_state` sees every state after it is safe on disk. A run that diverges keeps its records and says so in
    result.json. Another process at the same run is waited for, after a call of `on_wait`.

    Raises `StoreError` where the folder holds the same configuration on other data.
    """
    folder = RunFolder(out / run_id(config, dataset))
    folder.check_same(dataset)
    with folder.lock(on_wait):
        if folder.result is not None:
            return folder
        folder.clear_leftovers()
        folder.describe(config, dataset, device)
        try:
            _train_into(folder, train(config, dataset, resume=folder.resume_point(), device=device), on_state)
        except DivergedError as error:
            folder.finish({}, {"status": "diverged", "message": str(error)})
    return folder


def _train_into(folder: RunFolder, states: Iterator[State], on_state: Callable[[State], None]) -> None:
    seconds: dict[str, float] = {}
    saved = time.monotonic()
    for state in states:
        seconds = {name: seconds.get(name, 0.0) + value for name, value in state.seconds.items()}
        if state.record is not None:
            folder.append(state.record, seconds)
            seconds = {}
        if state.finished:  # before the checkpoint: killed between the two, a run would find nothing left to do
            folder.finish(state.tensors, {"status": "finished", "epoch": state.epoch})
        if state.record is not None or time.monotonic() - saved > CHECKPOINT_SECONDS:
            folder.save_checkpoint(state.tensors)
            saved = time.monotonic()
        on_state(state)


def folders(path: Path) -> list[RunFolder]:
    """The runs in a folder, or the folder itself where it is one; sorted by name. Raises `StoreError`."""
    if not path.is_dir():
        raise StoreError(f"there is no folder {path}")
    if (path / "config.json").exists():
        return [RunFolder(path)]
    return [RunFolder(config.parent) for config in sorted(path.glob("*/config.json"))]


def runs(path: Path | str) -> pd.DataFrame:
    """Every record of every run below `path`, one row each.

    Columns: `run_id`, `status` (finished, diverged, unfinished), the fields of `RunConfig`, `num_classes`, `epoch`,
    `current_learning_rate` (of the step after), `gradient_norm` (‖∇L‖ over all training data), `terminal_phase_start`
    (the first recorded epoch from which the training error has been zero at every record so far), and `train.*` and
    `test.*`, the metric keys; layers are numbered, `train.weight_norms.0` the first. Raises `StoreError`.
    """
    return records_frame(folders(Path(path)))


def records_frame(run_folders: Iterable[RunFolder]) -> pd.DataFrame:
    """The records of these runs, as `runs` gives them."""
    rows = []
    for folder in run_folders:
        described = folder.description
        common = {"run_id": folder.path.name, "status": folder.status, **described["config"]}
        common["num_classes"] = described["num_classes"]
        for record in folder.records():
            record["current_learning_rate"] = record.pop("learning_rate")  # beside the configuration's
            rows.append({**common, **_flat(record)})
    frame = pd.DataFrame(rows)
    if len(frame):
        frame["terminal_phase_start"] = frame["terminal_phase_start"].astype(float)
    return frame


def runs_table(run_folders: Iterable[RunFolder]) -> pd.DataFrame:
    """One row per run: its id, status, how far it is, and its last numbers."""
    rows = []
    for folder in run_folders:
        described = folder.description
        records = folder.records()
        last = records[-1] if records else {}
        row = {"run_id": folder.path.name, "status": folder.status, "epoch": last.get("epoch", math.nan)}
        row["epochs"] = described["config"]["epochs"]
        shown = ("train.accuracy", "test.accuracy", "train.loss", "train.nc1", "train.nc3", "train.nc4")
        row |= {key: last.get(key, math.nan) for key in ("terminal_phase_start", *shown)}
        rows.append(row)
    return pd.DataFrame(rows)


def _flat(record: Record) -> Record:
    flat: Record = {}
    for key, value in record.items():
        if isinstance(value, list):
            if key.endswith("weight_norms"):
                flat |= {f"{key}.{layer}": norm for layer, norm in enumerate(value)}
        else:
            flat[key] = value
    return flat
