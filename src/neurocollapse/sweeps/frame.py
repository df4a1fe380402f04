"""Reads a folder of runs back as one table."""

import math
import warnings
from collections.abc import Iterable
from dataclasses import fields
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from .._errors import RunError, checks_arguments, did_you_mean
from .._files import path_of
from ..training import Record, RunConfig
from .files import unreadable
from .folder import HEADLINES, RunFolder, no_run
from .schemas import recorded_type

#: Fields of a configuration that the name of a run's folder shows.
_IN_THE_ID = ("dataset", "network", "weight_decay", "seed")


def folders(path: Path) -> list[RunFolder]:
    """Returns the runs in a folder, sorted by name, or the folder itself if it is a run. Raises `RunError`."""
    try:
        if not path.is_dir():
            raise no_run(path)
        if RunFolder(path).started:
            return [RunFolder(path)]
        return [folder for folder in map(RunFolder, sorted(path.iterdir())) if folder.started]
    except OSError as error:
        raise unreadable(path, error) from error


class RunsFrame(pd.DataFrame):
    """A data frame of records, of whose many columns `print` shows those that tell most; all are in `columns`."""

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return RunsFrame

    def __getitem__(self, key: Any) -> Any:
        try:
            return super().__getitem__(key)
        except KeyError:
            if not isinstance(key, str):
                raise
            raise KeyError(f"there is no column {key!r}{did_you_mean(key, map(str, self.columns))}") from None

    def __repr__(self) -> str:
        telling = [name for name in ("run_id", "status", "epoch", *HEADLINES) if name in self.columns]
        if len(self.columns) <= len(telling) + 5 or "run_id" not in telling:
            return super().__repr__()
        with pd.option_context("display.expand_frame_repr", False, "display.max_columns", None):
            return f"{pd.DataFrame(self)[telling]!r}\nof {len(self.columns)} columns"


@checks_arguments
def runs(path: Path | str) -> pd.DataFrame:
    """Returns every record of every run in the folder `path`, one row each.

    Columns: `run_id`, `status` (finished, diverged, unfinished), the fields of `RunConfig`, `num_classes`, `epoch`,
    `current_learning_rate` (of the next step), `gradient_norm` (‖∇L‖ over all training data), `relative_gradient`
    (‖∇L‖ / (‖∇L_data‖ + λ‖W‖)), `norm_spread` (max/min − 1 of the ‖W_l‖²), `nc1_slope` (d log NC1 / d log epoch),
    `terminal_phase_start` (the first recorded epoch from which the training error has been zero at every record so
    far), and `train.*` and `test.*`, the metric keys; layers are numbered, `train.weight_norms.0` the first. With
    layers="all" there are `train.layers.NAME.KEY` too, of the layer called NAME. Printing shows the columns that tell
    most. A damaged run is left out with a warning. Raises `RunError` if all are damaged.
    """
    return records_frame(folders(path_of(path, RunError)))


def records_frame(run_folders: Iterable[RunFolder]) -> pd.DataFrame:
    """Returns the records of these runs as `runs` does; it warns of damaged ones, and raises if all are."""
    rows: list[Record] = []
    damages: list[RunError] = []
    folders = list(run_folders)
    for folder in folders:
        try:
            folder.check_whole()
            for remark in folder.remarks:
                warnings.warn(remark, stacklevel=3)
            rows += record_rows(folder.path.name, folder.status, folder.description, folder.records())
        except RunError as error:
            damages.append(error)
    if damages and len(damages) == len(folders):
        raise damages[0]
    for damage in damages:
        warnings.warn(f"left out: {damage}", stacklevel=3)
    return frame_of(rows)


def record_rows(run_id: str, status: str, described: dict[str, Any], records: Iterable[Record]) -> list[Record]:
    """Returns a row of `runs` for each record; `described` describes the run as config.json does."""
    config = described["config"]
    common = {"run_id": run_id, "status": status, **config, "num_classes": described["num_classes"]}
    rows = []
    for record in records:
        beside = {f"current_{key}" if key in config else key: value for key, value in record.items()}
        rows.append({**common, **_flat(beside)})
    return rows


def frame_of(rows: list[Record]) -> pd.DataFrame:
    """Returns the rows as a frame like that of `runs`; without rows, an empty frame with its first columns."""
    if not rows:
        names = [field.name for field in fields(RunConfig)]
        return pd.DataFrame(columns=["run_id", "status", *names, "num_classes", "epoch"])
    frame = RunsFrame(rows)
    undefined = [name for name in frame.columns[frame.isna().all()] if recorded_type(name) == (float | None)]
    return frame.astype(dict.fromkeys(["terminal_phase_start", *undefined], float))


def runs_table(run_folders: Iterable[RunFolder]) -> pd.DataFrame:
    """Returns one row per run: its id, status, last epoch and last numbers. A damaged run shows only its id and status.

    A field in which the runs differ, and which their ids do not show, has a column after the id.
    """
    folders = list(run_folders)
    table = pd.DataFrame([_row(folder) for folder in folders], dtype=object)  # an integer beside a NaN stays one
    unused = [name for name in ("train.loss", "train.objective") if name in table and table[name].isna().all()]
    table = table.drop(columns=unused[-1:])  # before anything is recorded, the square loss's column stays
    configs = [folder.description["config"] if folder.damage is None else {} for folder in folders]
    in_the_id = () if any(folder.damage is None and folder.is_own_loop for folder in folders) else _IN_THE_ID
    names = dict.fromkeys(chain((field.name for field in fields(RunConfig)), *configs))
    for name in [name for name in names if name not in (*in_the_id, *table)][::-1]:
        if len({repr(config[name]) for config in configs if name in config}) > 1:
            table.insert(1, name, [config.get(name) for config in configs])
    return table


def _row(folder: RunFolder) -> dict[str, Any]:
    row = {"run_id": folder.path.name, "status": "damaged", "epoch": math.nan, "epochs": math.nan}
    row |= dict.fromkeys(HEADLINES, math.nan)
    if folder.damage is None:
        records = folder.records()
        last = records[-1] if records else {}
        row |= {"status": folder.status, "epochs": folder.description["config"].get("epochs")}
        row |= {key: last[key] for key in row if key in last}
        if row["epochs"] is None:
            del row["epochs"]  # of a loop of the user's own, which may not say it
    return row


def _flat(record: Record) -> Record:
    flat: Record = {}
    for key, value in record.items():
        if isinstance(value, list):
            if key.endswith("weight_norms"):
                flat |= {f"{key}.{layer}": norm for layer, norm in enumerate(value)}
        else:
            flat[key] = value
    return flat
