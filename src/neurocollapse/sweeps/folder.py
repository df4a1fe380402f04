"""Reads and checks the folder of one run, without loading torch."""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._errors import InputError, InputTypeError, RunError, checks_arguments, did_you_mean
from .._files import irregular, path_of
from .._html import html_table
from .._schema import typed
from ..training import DEFAULTS_VERSION, Record, RunConfig, former_defaults, last_epoch, recorded_epochs
from .files import damaged, missing, read_arrays, read_json, read_lines, reading
from .naming import FORMAT, RUN_NAME, run_name
from .recorded import read_records
from .schemas import MOST_CLASSES, OWN, SNAPSHOT, TIMING, Description, Ending, OwnDescription

if TYPE_CHECKING:
    from torch import Tensor

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
CHECKPOINT = "checkpoint.safetensors"

#: Files that show that a folder holds a run: at least its first one.
_TRACES = ("config.json", "records.jsonl", CHECKPOINT, "result.json")


@checks_arguments
class RunFolder:
    """The files of one run: its `config`, `status`, `records()` and `weights()`. A notebook shows it as a table.

    Each value is read from disk when it is used, so a run in training shows what it has reached. A damaged file raises
    `RunError` at that moment, not before.

    >>> RunFolder("results/nothing").started
    False
    """

    def __init__(self, path: Path | str):
        self.path = path_of(path, RunError)

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
        own, result, records = self.is_own_loop, self.result or {"status": "unfinished"}, self.records()
        last = records[-1] if records else {"epoch": 0}
        of_all = "" if own else f" of {last_epoch(self.config)}"
        yield "status", f"{result['status']} at epoch {last['epoch']}{of_all}"
        if "message" in result:
            yield "message", result["message"]
        settings = self.description["config"] if own else self.config.changed
        yield from ((name, str(value)) for name, value in settings.items())
        yield from ((key, f"{last[key]:.6g}") for key in HEADLINES if isinstance(last.get(key), int | float))

    @property
    def result(self) -> dict[str, Any] | None:
        """How the run ended, or None if it has not."""
        path = self.path / "result.json"
        ended: Ending | None = read_json(path, Ending | None)
        if ended is None:
            return None
        if ended.status == "finished" and ended.epoch is None:
            raise damaged(path, "it has no 'epoch'")
        return {key: value for key, value in vars(ended).items() if value not in (None, "")}

    @property
    def started(self) -> bool:
        """Whether the folder holds any file of a run, or bears a run's name and cannot be looked into."""
        try:
            return any((self.path / name).exists() for name in _TRACES)
        except PermissionError:
            return RUN_NAME.fullmatch(self._name) is not None

    @property
    def _name(self) -> str:
        return self.path.absolute().name

    @property
    def status(self) -> str:
        """The state of the run: finished, diverged or unfinished. Raises `RunError` if there is no run."""
        if not self.started:
            raise no_run(self.path)
        return (self.result or {"status": "unfinished"})["status"]

    @property
    def is_own_loop(self) -> bool:
        """Whether a loop of the user's own recorded the run, with `Recorder`, so that it has no `config`."""
        values = read_json(self.path / "config.json", dict[str, Any] | None)
        return values is not None and values.get("loop") == OWN

    @property
    def description(self) -> dict[str, Any]:
        """The content of config.json, with every field of the configuration."""
        path = self.path / "config.json"
        values = read_json(path, dict[str, Any] | None)
        if values is None and self.started:
            raise missing(path)
        if values is not None and values.get("loop") == OWN:
            return self._own_description(values)
        its_own = values is not None and isinstance(values.get("config"), dict) and "epochs" in values["config"]
        if values is None or not ((its_own and "num_classes" in values) or RUN_NAME.fullmatch(self._name)):
            fault = "has no config.json" if values is None else "has a config.json of something else"
            raise RunError(f"{self.path} is not a run: it {fault}; name the folder of a run")
        with reading(path):
            described = typed(Description, values)
            _check_classes(described.num_classes)
        versions = {
            "format": described.schema if described.format is None else described.format,
            "defaults": described.schema if described.defaults is None else described.defaults,
        }
        unknown = sorted(described.config.keys() - {field.name for field in dataclasses.fields(RunConfig)})
        self._check_version(unknown, versions["format"])
        return {**values, **versions, "config": asdict(self._config(described, versions["defaults"]))}

    def _own_description(self, values: dict[str, Any]) -> dict[str, Any]:
        with reading(self.path / "config.json"):
            described = typed(OwnDescription, values)
            _check_classes(described.num_classes or None)  # 0 if it was recorded with the counts of no sample
        self._check_version([], described.format)
        return {**values, **vars(described)}

    def _check_version(self, unknown: Sequence[str], made_with: int) -> None:
        if unknown:
            reason = f"its config.json has the unknown field {unknown[0]!r}"
        elif made_with != FORMAT:
            reason = f"its format is {made_with}, and that of this version {FORMAT}"
        else:
            return
        raise RunError(
            f"{self.path} was made by another version of neurocollapse ({reason}); use that, or name another folder"
        )

    def _config(self, described: Description, defaults: int) -> RunConfig:
        try:
            values = {**former_defaults(defaults), "dataset": RunConfig.dataset, **described.config}
            data = typed(str, values.pop("dataset"), "config.dataset")
            config: RunConfig = typed(RunConfig, values, "config").with_data(data)
        except InputTypeError as error:
            raise damaged(self.path / "config.json", error) from error
        except ValueError as error:  # of a field's value
            raise RunError(
                f"{self.path} was made by another version of neurocollapse, or edited since ({error}); use that, or "
                f"name another folder"
            ) from error
        name = run_name(config, described.data_sha256, defaults)
        # The hash of newer defaults cannot be computed here.
        if defaults <= DEFAULTS_VERSION and RUN_NAME.fullmatch(self._name) and self._name != name:
            raise RunError(
                f"{self.path} holds another run than its name says, {name}: it was copied, or its config.json edited; "
                f"give a copy that name, undo what was edited, or move it elsewhere"
            )
        return config

    @property
    def config(self) -> RunConfig:
        """The configuration of the run. Raises `RunError` if another version, or a loop of your own, wrote it."""
        described = self.description
        if described.get("loop") == OWN:
            raise RunError(
                "a loop of your own recorded this run, and its network and data are not known here; verify the model "
                "itself, with its loader and weight_decay"
            )
        values = dict(described["config"])
        data = values.pop("dataset")
        return RunConfig(**values).with_data(data)

    def weights(self) -> "dict[str, Tensor]":
        """Returns the last weights of a finished run by parameter name; an empty dict if the run has not finished."""
        from .tensors import read_tensors

        return read_tensors(self.path / "model.safetensors")

    @property
    def weights_digest(self) -> str:
        """The SHA-256 of the last weights as they are on disk; empty if there are none."""
        path = self.path / "model.safetensors"
        with reading(path):
            return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""

    def records(self) -> list[Record]:
        """Returns the record of every measured epoch."""
        return read_records(self.path / "records.jsonl", of_own_loop=self.is_own_loop)

    def timings(self) -> list[dict[str, Any]]:
        """Returns, for each record, the seconds spent to `train` and to `measure` since the one before."""
        return read_lines(self.path / "timings.jsonl", TIMING)

    def snapshots(self) -> dict[int, dict[str, np.ndarray]]:
        """Returns the samples and Gram matrices kept for a report, by epoch: see `training.snapshot`."""
        found: dict[int, dict[str, np.ndarray]] = {}
        path = self.path / SNAPSHOTS
        arrays = read_arrays(path)
        with reading(path):
            for name, array in sorted(arrays.items(), key=lambda item: epoch_of(item[0])):
                found.setdefault(epoch_of(name), {})[name.partition(".")[2]] = array
        for epoch, named in found.items():
            if {name: array.ndim for name, array in named.items()} != SNAPSHOT:
                raise damaged(path, f"epoch {epoch} has the tensors {', '.join(named)}, not {', '.join(SNAPSHOT)}")
            if len(named["labels"]) != len(named["samples"]):
                raise damaged(path, f"epoch {epoch} has labels and samples of different lengths")
        return found

    def checkpoint_epoch(self) -> int | None:
        """Returns the epoch from which the run would resume, or None if it would start again."""
        path = self.path / CHECKPOINT
        with reading(path):
            epoch = read_arrays(path, names=("epoch",)).get("epoch")
            return None if epoch is None else int(epoch)

    def check_whole(self) -> None:
        """Raises `RunError` if a run that was started lacks a file or a record, or if one cannot be read.

        Raises it too for a run of a newer version, whose unknown fields may change what the numbers mean. The checksums
        of weights and checkpoint are compared when those are read, not here.
        """
        if not self.started:
            return
        if self.is_own_loop:
            _ = self.description
            result = self.result
            self._check_end(result, [record["epoch"] for record in self.records()])
            return
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
            with reading(model):
                if not model.exists():
                    raise missing(model)
                read_arrays(model, names=())
        due = {epoch for epoch in recorded_epochs(config) if last is not None and epoch <= last}
        recorded = [record["epoch"] for record in self.records()]
        if lacking := due - {*recorded}:
            raise damaged(self.path / "records.jsonl", f"it lacks epoch {min(lacking)}")
        if recorded and recorded[-1] > last_epoch(config):
            fault = f"line {len(recorded)}: epoch {recorded[-1]} is after the run's last, {last_epoch(config)}"
            raise damaged(self.path / "records.jsonl", fault)
        self._check_end(result, recorded)

    def _check_end(self, result: dict[str, Any] | None, recorded: Sequence[int]) -> None:
        """Raises `RunError` if the run, which ended so, did not end at the last of these epochs."""
        said, last = (result or {}).get("epoch"), max(recorded, default=-1)
        # A loop of the user's own that goes on removes result.json before it writes a record.
        if said in (None, last) or self.result != result:
            return
        if said > last:
            raise damaged(self.path / "records.jsonl", f"it lacks epoch {said}, the last one by result.json")
        raise damaged(self.path / "result.json", f"its epoch is {said}, and the last record is of epoch {last}")

    @property
    def damage(self) -> str | None:
        """The message of the error that `check_whole` raises, or None if the run is whole."""
        try:
            self.check_whole()
        except RunError as error:
            return str(error)
        return None

    @property
    def remarks(self) -> list[str]:
        """Says what is wrong in the files of a whole run that does not touch its numbers."""
        path, found = self.path / "config.json", []
        known = [field.name for field in dataclasses.fields(Description)]
        for name in set() if self.is_own_loop else read_json(path, dict[str, Any]).keys() - known:
            found.append(f"{path} has the unknown key {name!r}{did_you_mean(name, known)}, which is ignored")
        try:
            self.timings()
        except RunError as error:
            found.append(f"{str(error).partition(';')[0]}; the run is whole but for the seconds that it took")
        return found


def _check_classes(number: int | None) -> None:
    if number is not None and not 1 <= number <= MOST_CLASSES:
        raise InputError(f"num_classes must be from 1 to {MOST_CLASSES}, got {number}")


def no_run(path: Path) -> RunError:
    """Returns the error for a path that is no folder, or a folder without a run; it names the nearest beside it."""
    if path.is_dir():
        return RunError(f"there is no run in {path}; name the folder of one")
    if path.exists():
        return RunError(f"{path} is {irregular(path) or 'a file'}, not a folder")
    beside = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
    longer = [name for name in beside if Path(name).stem == path.name]  # such as a trajectory without its .jsonl
    meant = f" (did you mean {longer[0]!r}?)" if longer else did_you_mean(path.name, beside)
    return RunError(f"there is no folder {path}{meant}")


def epoch_of(name: str) -> int:
    """Returns the epoch in the name of a tensor in snapshots.safetensors, such as 12 for `12.samples`."""
    epoch = name.partition(".")[0]
    if not epoch.isdecimal():
        raise InputError(f"its tensor {name!r} belongs to no epoch")
    return int(epoch)
