"""Reads the records of a run, and checks each against the others."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..training import Record
from .files import damaged, read_lines
from .schemas import OWN_RECORD, RECORD, recorded_type


def read_records(path: Path, *, of_own_loop: bool) -> list[Record]:
    """Returns the records in records.jsonl. Raises `RunError` for values of other types, and epochs out of order."""
    if of_own_loop:
        records = read_lines(path, OWN_RECORD)
    else:
        records = read_lines(path, RECORD, recorded_type)
        _check_lengths(path, records)
    _check_order(path, records)
    return records


def _check_order(path: Path, records: Sequence[Record]) -> None:
    before = -1
    for number, record in enumerate(records, start=1):
        if record["epoch"] <= before:
            fault = f"follows epoch {before}" if number > 1 else "is before the first, 0"
            raise damaged(path, f"line {number}: epoch {record['epoch']} {fault}")
        before = record["epoch"]


def _check_lengths(path: Path, records: Sequence[Record]) -> None:
    """Raises `RunError` if the lists of a key, with a number for each layer, class or feature, differ in length."""
    lengths: dict[str, int] = {}
    for number, record in enumerate(records, start=1):
        for key, values in record.items():
            if isinstance(values, list) and recorded_type(key) is not Any:
                due = lengths.setdefault(key, max(len(values), 1))
                if len(values) != due:
                    raise damaged(path, f"line {number}: {key} has {len(values)} numbers, not {due}")
