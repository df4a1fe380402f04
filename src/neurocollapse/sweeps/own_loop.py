"""Records a training loop of the user's own as a run on disk."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from .._errors import InputError, InputTypeError, RunError, as_plain, checks_arguments, printable
from .._files import in_one_line, to_json, write_text
from ..metrics import DEFINITIONS_VERSION, Measurement
from ..training import Record, RunConfig
from .folder import RunFolder
from .frame import folders
from .identity import provenance
from .naming import FORMAT
from .schemas import OWN
from .writing import RunWriter

#: Columns of `runs` that no field of a configuration may have.
_TAKEN = ("run_id", "status", "epoch", "num_classes", "terminal_phase_start")


@checks_arguments
class Recorder:
    """Writes what your own training loop measures as a run that `runs`, `report` and `plot` read.

    Each `add` writes whole files, so a process that is killed leaves the last whole state. A loop that resumes makes
    a new recorder: its first record replaces those of this epoch and of later ones. The run is unfinished until
    `finish`, which the end of a `with` block calls too, unless by an exception.

    Args:
        out: the folder of this run, which is made at the first record. Several runs go into folders side by side, and
            the folder around them is what `runs` and `report` take.
        config: what tells this run from others, in words and numbers; other values are kept as text. The figure has a
            line for each `weight_decay`, over `seed`s, if these tell the runs apart, or else one for each run.

    Raises:
        RunError: the folder holds another run, or several.

    >>> import neurocollapse as nc
    >>> recorder = nc.Recorder("results/mine", config={"weight_decay": 5e-4, "seed": 0})
    >>> recorder.epoch is None
    True
    """

    def __init__(self, out: Path | str, config: Mapping[str, Any] | RunConfig | None = None):
        self.folder = RunFolder(out)
        given = asdict(config) if isinstance(config, RunConfig) else dict(config or {})
        self.config = {printable(str(name)): _plain(f"config: {name}", value) for name, value in given.items()}
        if taken := [name for name in self.config if name in _TAKEN or name.startswith(("train.", "test."))]:
            raise InputError(f"config has {taken[0]!r}, which is a column of every run; call it otherwise")
        #: the last recorded epoch; None if there is none
        self.epoch: int | None = None
        self._kept: list[_Kept] | None = None  # the records, from the first `add` on
        self._stamp: tuple[int, int] | None = None  # of the file that holds them
        path = self.folder.path
        if self.folder.started:
            self._check_same()
            self.epoch = max((record["epoch"] for record in self.folder.records()), default=None)
        elif path.is_dir() and (within := folders(path)):
            raise RunError(f"{path} holds {len(within)} run(s); name a folder of its own, such as {path / 'mine'}")

    def add(self, epoch: int, measurement: Measurement | Mapping[str, Any], **more: Any) -> None:
        """Records an epoch: `measurement` as `train.nc1`, …, and `more`.

        Args:
            epoch: 0 is before training. Epochs come in order; a second record of the last one replaces the first.
            measurement: of the training data, from `measure`, `measure_model` or TorchMetrics.
            more: numbers by their names, such as `learning_rate=0.1`; or another measurement, such as `test=`, whose
                keys become `test.nc1`, …; or what `measure_layers` returns.

        Raises:
            InputError: the epoch is before the last one, or a value is no number.
            RunError: the folder cannot be written to, or its run is damaged.
            WriteError: the disk is full.
        """
        epoch = as_plain(epoch)
        if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0:
            raise InputTypeError(f"epoch must be an integer from 0, got {epoch!r}")
        if not isinstance(measurement, Mapping):
            raise InputTypeError(f"measurement must be a Measurement or a mapping, got {type(measurement).__name__}")
        if self._kept and epoch < self._kept[-1].epoch:
            raise InputError(f"epoch {epoch} cannot follow epoch {self.epoch}; record epochs in their order")
        counts = _counts(measurement)
        record: Record = {"epoch": epoch, "terminal_phase_start": None}
        for name, value in [("train", measurement), *more.items()]:
            numbers = _numbers(name, value)
            if taken := sorted(numbers.keys() & (record.keys() | set(_TAKEN))):
                raise InputError(f"{taken[0]!r} is a column of this record already; call the other one otherwise")
            if taken := sorted(
                numbers.keys() & (self.config.keys() - {"learning_rate"})
            ):  # of which records have theirs
                raise InputError(
                    f"{taken[0]!r} is a column of the config, for the whole run; call one of them otherwise"
                )
            record |= numbers
        writer = RunWriter(self.folder.path)
        with writer.lock():
            writer.clear_leftovers()
            if writer.started:
                self._check_same()
            else:
                self._describe(counts)
            records = writer.path / "records.jsonl"
            known = self._kept
            if known is None or _stamp(records) != self._stamp:  # changed by another recorder
                known = list(map(_kept, writer.records()))
            before = [each for each in known if each.epoch < epoch]
            record["terminal_phase_start"] = _terminal_phase_start(record, before[-1] if before else None)
            (writer.path / "result.json").unlink(missing_ok=True)
            kept = [*before, _kept(record)]
            write_text(records, "".join(each.line for each in kept))
            self._stamp = _stamp(records)
        self.epoch, self._kept = epoch, kept

    def finish(self) -> None:
        """Says that the run has ended, if anything was recorded."""
        if self.epoch is not None:
            ended = {"status": "finished", "epoch": self.epoch}
            write_text(self.folder.path / "result.json", to_json(ended, indent=2) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()

    def _check_same(self) -> None:
        if not self.folder.is_own_loop:
            raise RunError(f"{self.folder.path} holds something else than a run of your own loop; name another folder")
        then, now = self.folder.description["config"], self.config
        for name in {**then, **now}:
            if (name in then) != (name in now) or repr(then[name]) != repr(now[name]):
                raise RunError(
                    f"{self.folder.path} holds a run of another config: {name} was {then.get(name)!r}, and now it is "
                    f"{now.get(name)!r}; name another folder"
                )

    def _describe(self, counts: list[int] | None) -> None:
        described = {
            "loop": OWN,
            "format": FORMAT,
            "definitions": DEFINITIONS_VERSION,
            "config": self.config,
            "num_classes": None if counts is None else sum(count > 0 for count in counts),
            "provenance": [{name: value for name, value in provenance("cpu").items() if name != "device"}],
        }
        write_text(self.folder.path / "config.json", to_json(described, indent=2) + "\n")


def _stamp(path: Path) -> tuple[int, int] | None:
    """Returns what changes with the file; None if there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


class _Kept(NamedTuple):
    """A record as its line, so that records are read and written as JSON once."""

    epoch: int
    terminal_phase_start: int | None
    line: str


def _kept(record: Record) -> _Kept:
    return _Kept(record["epoch"], record["terminal_phase_start"], to_json(record) + "\n")


def _plain(name: str, value: Any) -> str | bool | int | float | None:
    """Returns a value of a configuration as JSON has it; what JSON lacks becomes text."""
    plain = _listed(name, value)
    if plain is None or isinstance(plain, bool):
        return plain
    if isinstance(plain, int):
        return _bounded(name, plain)
    return float(plain) if isinstance(plain, float) and math.isfinite(plain) else printable(str(plain))


def _numbers(name: str, value: Any) -> Record:
    """Returns a number by its name, or those of a measurement, or of several by name, with this name before each."""
    if isinstance(value, Measurement):
        value = value.to_dict()
    if not isinstance(value, Mapping):
        return {name: _number(name, value)}
    found: Record = {}
    for key, each in value.items():
        found |= {} if key == "class_counts" else _numbers(printable(f"{name}.{key}"), each)
    return found


def _counts(measurement: Measurement | Mapping[str, Any]) -> list[int] | None:
    """Returns the number of samples of each class, if the measurement says it."""
    given = measurement.class_counts if isinstance(measurement, Measurement) else measurement.get("class_counts")
    if given is None:
        return None
    counts = _listed("class_counts", given)
    if not isinstance(counts, list | tuple) or not all(type(count) is int and count >= 0 for count in counts):
        raise InputTypeError(f"class_counts must be the number of samples of each class, got {type(given).__name__}")
    return list(counts)


def _listed(name: str, value: Any) -> Any:
    """Returns the numbers of a tensor, or of NumPy, as Python's own; any other value as it is."""
    try:
        return value.tolist() if hasattr(value, "tolist") else value
    except Exception as error:  # of a tensor that is sparse or has no values
        raise InputTypeError(
            f"{name} cannot be read ({in_one_line(error)}); pass a dense tensor, or a number"
        ) from error


def _bounded(name: str, value: int) -> int:
    try:
        float(value)
    except OverflowError:
        raise InputError(f"{name} is an integer beyond any float; record its logarithm, or leave it out") from None
    return int(value)


def _number(name: str, value: Any) -> Any:
    plain = _listed(name, value)
    if isinstance(plain, list | tuple):
        return [_number(name, each) for each in plain]
    if plain is not None and not isinstance(plain, int | float):
        raise InputTypeError(f"{name} must be a number or a measurement, got {type(value).__name__}")
    if isinstance(plain, int) and not isinstance(plain, bool):
        return _bounded(name, plain)
    return float(plain) if isinstance(plain, float) else plain


def _terminal_phase_start(record: Record, before: _Kept | None) -> int | None:
    """Returns the first epoch from which the training error has been zero at every record; None if it is not now."""
    accuracy = record.get("train.accuracy")
    if not isinstance(accuracy, int | float) or not accuracy >= 1:
        return None
    if before is None or before.terminal_phase_start is None:
        return int(record["epoch"])
    return before.terminal_phase_start
