"""Reads the trajectory of checkpoints that `neurocollapse measure` writes as runs, without loading torch."""

import re
from pathlib import Path
from typing import Any

from .._errors import RunError
from .._files import in_one_line, json_lines
from .._schema import NON_FINITE, typed_line
from .page.content import ReportRun

#: What a line says besides numbers: its checkpoint, and the conditions under which that was measured.
_CHECKPOINT = ("checkpoint", "sha256")
_CONDITIONS = (
    "model", "network", "dataset", "split", "data_sha256", "definitions", "absent", "min_per_class", "max_per_class",
)  # fmt: skip
_SHOWN = ("model", "dataset")


def trajectory_runs(path: Path) -> list[ReportRun]:
    """Returns a run for each set of conditions in a trajectory, with a record for each checkpoint.

    The epoch of a checkpoint is the last number in its name, or its place if these numbers do not tell all apart.
    Measurements on the training and the test split of one model are records of one run. Raises `RunError`.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    try:
        for number, line in json_lines(path):
            values = typed_line({"checkpoint": str, "split": str}, line, number)
            same = {name: values.get(name) for name in _CONDITIONS if name not in ("split", "data_sha256")}
            groups.setdefault(repr(same), []).append(values)
    except PermissionError as error:
        raise RunError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    except Exception as error:
        raise RunError(f"{path} is no trajectory ({in_one_line(error)}); mend it, or name another file") from error
    if not groups:
        raise RunError(f"there are no checkpoints in {path}; name a trajectory that measure wrote")
    names = [path.stem if len(groups) == 1 else f"{path.stem}-{place}" for place in range(len(groups))]
    return [_run(name, lines) for name, lines in zip(names, groups.values(), strict=True)]


def _run(name: str, lines: list[dict[str, Any]]) -> ReportRun:
    names = list(dict.fromkeys(line["checkpoint"] for line in lines))
    numbers = [int(found[-1]) if (found := re.findall(r"\d+", Path(each).stem)) else None for each in names]
    distinct = None not in numbers and len(set(numbers)) == len(numbers)
    epochs = dict(zip(names, numbers if distinct else range(1, len(names) + 1), strict=True))
    records: dict[int, dict[str, Any]] = {}
    for line in lines:
        epoch = epochs[line["checkpoint"]]
        record = records.setdefault(epoch, {"epoch": epoch, "terminal_phase_start": None})
        record |= {f"{line['split']}.{key}": _number(value) for key, value in line.items() if _is_number(key, value)}
    counts = lines[0].get("class_counts", [])
    return ReportRun(
        name=name,
        status="finished",
        config={key: lines[0].get(key) for key in _SHOWN},
        num_classes=sum(count > 0 for count in counts),
        records=[records[epoch] for epoch in sorted(records)],
    )


def _is_number(key: str, value: Any) -> bool:
    return key not in (*_CHECKPOINT, *_CONDITIONS, "class_counts") and (
        isinstance(value, int | float | list) or value in NON_FINITE
    )


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, str) else value
