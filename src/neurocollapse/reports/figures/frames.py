"""Checks the frames that figures are drawn from: a row for each run and recorded epoch."""

from collections.abc import Hashable
from typing import Any

import pandas as pd

from ..._errors import InputError
from ...sweeps import RECORDED

#: Columns that hold numbers wherever they are.
_NUMBERS = ("epoch", "num_classes", "terminal_phase_start")
#: Larger epochs are not exact in float64.
_LARGEST_EPOCH = 2**53


def tidy(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns the frame with one type of `run_id`, and numbers as such. Raises `ValueError` for what is no table."""
    for place, column in enumerate(frame.columns):
        if frame.dtypes.iloc[place].kind == "O":
            _check_cells(frame, column, frame.iloc[:, place])
    if twice := frame.columns[frame.columns.duplicated()].tolist():
        raise InputError(f"the frame has more than one column {twice[0]!r}; drop or rename the others")
    if "run_id" in frame:
        if frame["run_id"].isna().any():
            raise InputError("a row of the frame has no run_id; give each row that of its run")
        if len(set(map(type, frame["run_id"]))) > 1:
            frame = frame.assign(run_id=frame["run_id"].map(str))
    frame = frame.assign(**{name: numbers(frame, name) for name in _NUMBERS if name in frame})
    if "epoch" in frame:
        wrong = frame[~((frame["epoch"] >= 0) & (frame["epoch"] < _LARGEST_EPOCH))]
        if len(wrong):
            raise InputError(f"an epoch{_of_run(wrong, 0)} is {wrong['epoch'].iloc[0]}; epochs are numbers from 0 on")
        if (frame["epoch"] % 1 == 0).all():
            frame = frame.astype({"epoch": int})
    return frame


def _check_cells(frame: pd.DataFrame, column: Hashable, cells: pd.Series) -> None:
    for place, value in enumerate(cells):
        if not isinstance(value, Hashable):
            raise InputError(
                f"{column}{_of_run(frame, place)} is {value!r:.60}; a cell holds one number or text, so give each of "
                f"several a column"
            )


def numbers(frame: pd.DataFrame, column: str) -> pd.Series:
    """Returns a column as floats, nan where nothing is. Raises `InputError` for the first value that is no number."""
    if frame[column].dtype.kind != "c":
        try:
            return frame[column].astype(float)
        except (TypeError, ValueError, OverflowError):
            pass
    for place, value in enumerate(frame[column]):
        try:
            float(value)
        except OverflowError:
            raise InputError(f"{column}{_of_run(frame, place)} is an integer beyond any float; leave it out") from None
        except (TypeError, ValueError):
            if value is not None and value is not pd.NA:
                break
    raise InputError(f"{column}{_of_run(frame, place)} is {value!r:.60}; it must be a number, or nan for none")


def _of_run(frame: pd.DataFrame, place: int) -> str:
    return f" of run {frame['run_id'].iloc[place]}" if "run_id" in frame else f" in row {place}"


def checked(frame: pd.DataFrame, columns: list[str], one_run_per: list[str]) -> pd.DataFrame:
    """Returns the rows in order of epochs, with floats. Raises `ValueError` if they cannot be drawn, and says why."""
    frame = tidy(frame)
    if frame.empty:
        raise InputError("the frame has no rows, so there is nothing to draw; pass at least one record of one run")
    needed = list(dict.fromkeys(["run_id", "epoch", *one_run_per, *columns]))
    if missing := [column for column in needed if column not in frame.columns]:
        raise InputError(
            f"the frame has no column {', '.join(missing)}; pass a row for each run and recorded epoch, with all of "
            f"{', '.join(needed)}"
        )
    if twice := frame[frame.duplicated(["run_id", "epoch"])][["run_id", "epoch"]].values.tolist():
        raise InputError(f"run {twice[0][0]} has more than one record of epoch {twice[0][1]}; pass each record once")
    _check_one_run_per(one_run_per, frame)
    decay = [column for column in one_run_per if column == "weight_decay"]
    floats = {column: numbers(frame, column) for column in (*decay, *columns) if column != "network"}
    return frame.assign(**floats).sort_values("epoch", kind="stable")


def _check_one_run_per(keys: list[str], frame: pd.DataFrame) -> None:
    runs = frame.drop_duplicates("run_id")
    alike = runs[runs.duplicated(keys, keep=False)].sort_values(keys, kind="stable")
    if alike.empty:
        return
    one, other = alike.iloc[0], alike.iloc[1]
    each = frame[frame["run_id"].isin([one["run_id"], other["run_id"]])].groupby("run_id")
    settings = [c for c in runs.columns if c not in {"run_id", *RECORDED} and "." not in str(c)]
    settings = [c for c in settings if each[c].nunique(dropna=False).max() == 1]  # others a loop of the user's recorded
    differing = [f"{c} ({one[c]}, {other[c]})" for c in settings if str(one[c]) != str(other[c])]
    raise InputError(
        f"runs {one['run_id']} and {other['run_id']} have the same {' and '.join(keys)} but differ in "
        f"{', '.join(differing) or 'nothing else'}; a line over seeds would mix them: select the rows of one of them"
    )


def values(frame: pd.DataFrame, column: str) -> set[Any]:
    """Returns the distinct values of a column; none if the frame lacks it."""
    return set(frame[column].dropna()) if column in frame else set()
