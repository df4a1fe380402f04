"""Reads the trajectory of checkpoints that `neurocollapse measure` writes as runs, without loading torch."""

import re
from pathlib import Path
from typing import Any

from .._errors import RunError, did_you_mean
from .._files import in_one_line, json_lines
from .._schema import typed, typed_line
from ..measuring import CHECKPOINT_KEYS, CONDITION_KEYS, numbers_of
from .page.content import ReportRun
from .panels import PANELS

_SAID = (*CHECKPOINT_KEYS, *CONDITION_KEYS)
_DRAWN = (*PANELS, "accuracy", "loss", "objective", "weight_norms", "class_counts")
_SHOWN = ("model", "head", "dataset")

#: The words before the number of a checkpoint, the most telling first.
_COUNTED = ("epoch", "step", "iter(?:ation)?", "checkpoint", "ckpt")
#: A number as names have it, with its decimals and exponent.
_NUMBER = re.compile(r"(\d+(?:\.\d+)?(?:e[-+]?\d+)?)", re.IGNORECASE)


def trajectory_runs(path: Path) -> list[ReportRun]:
    """Returns a run for each set of conditions in a trajectory, with a record for each checkpoint.

    The epoch of a checkpoint is the number after epoch, step, iteration or checkpoint in its name or its folder's; else
    the number, if the names differ in it alone; else its place, also where the numbers do not tell all apart.
    Measurements on the training and the test split of one model are records of one run. Raises `RunError`.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    if path.parent.is_dir() and not path.exists():
        beside = [each.name for each in path.parent.glob("*.jsonl")]
        raise RunError(f"there is no file {path}{did_you_mean(path.name, beside)}; name a trajectory")
    try:
        for number, line in json_lines(path):
            values = typed_line({"checkpoint": str, "split": str}, line, number)
            for name in ("path", "sha256", "data_sha256"):
                typed(str | None, values.get(name), f"line {number}: {name}")
            said = {key: value for key, value in values.items() if key in _SAID}
            values = said | numbers_of(values, number, _DRAWN)
            same = {name: values.get(name) for name in CONDITION_KEYS if name not in ("split", "data_sha256")}
            groups.setdefault(repr(same), []).append(values)
    except PermissionError as error:
        raise RunError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    except Exception as error:
        raise RunError(f"{path} is no trajectory ({in_one_line(error)}); mend it, or name another file") from error
    if not groups:
        raise RunError(f"there are no checkpoints in {path}; name a trajectory that measure wrote")
    runs = [part for lines in groups.values() for same in _by_data(lines) for part in _by_folder(same)]
    names = [path.stem if len(runs) == 1 else f"{path.stem}-{place}" for place in range(len(runs))]
    return [_run(name, lines) for name, lines in zip(names, runs, strict=True)]


def _by_data(lines: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Parts lines by the digest of their data, if lines of one split differ in it."""
    seen = {(line["split"], line.get("data_sha256")) for line in lines}
    if len(seen) == len({split for split, _ in seen}):
        return [lines]
    digests = dict.fromkeys(line.get("data_sha256") for line in lines)
    return [[line for line in lines if line.get("data_sha256") == digest] for digest in digests]


def _by_folder(lines: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Parts lines by the folders of their checkpoints, if these have the same numbers and so are several runs.

    The checkpoints of a run are files of one folder, or of folders side by side.
    """
    files = list(map(Path, _files(lines)))
    if _counted(list(dict.fromkeys(files))) is not None:
        return [lines]
    for folder in (lambda file: file.parent, lambda file: file.parent.parent):
        of_runs: dict[Path, list[Path]] = {}
        for file in dict.fromkeys(files):
            of_runs.setdefault(folder(file), []).append(file)
        if len(of_runs) > 1 and all(len(each) > 1 and _counted(each) is not None for each in of_runs.values()):
            return [
                [line for line, file in zip(lines, files, strict=True) if folder(file) == place] for place in of_runs
            ]
    return [lines]


def _files(lines: list[dict[str, Any]]) -> list[str]:
    """Returns the file of each line.

    A line of earlier versions has no path; it is of the file that another line gives by the same words and content.
    """
    paths = {(line["checkpoint"], line.get("sha256")): line["path"] for line in lines if line.get("path")}
    given = [(line["checkpoint"], line.get("sha256")) for line in lines]
    return [line.get("path") or paths.get(words, words[0]) for line, words in zip(lines, given, strict=True)]


def _run(name: str, lines: list[dict[str, Any]]) -> ReportRun:
    files = _files(lines)
    names = list(dict.fromkeys(files))
    epochs = dict(zip(names, _epochs([Path(name) for name in names]), strict=True))
    records: dict[int, dict[str, Any]] = {}
    for line, file in zip(lines, files, strict=True):
        epoch = epochs[file]
        record = records.setdefault(epoch, {"epoch": epoch, "terminal_phase_start": None})
        record |= {
            f"{line['split']}.{key}": value for key, value in line.items() if key not in (*_SAID, "class_counts")
        }
    counts = lines[0].get("class_counts", [])
    return ReportRun(
        name=name,
        status="finished",
        config={key: lines[0].get(key) for key in _SHOWN},
        num_classes=sum(count > 0 for count in counts),
        records=[records[epoch] for epoch in sorted(records)],
    )


def _epochs(files: list[Path]) -> list[int]:
    """Returns the epoch of each checkpoint, in which no two agree."""
    return _counted(files) or list(range(1, len(files) + 1))


def _counted(files: list[Path]) -> list[int] | None:
    """Returns the number that each checkpoint's name says; None unless these tell all apart."""
    names = [[file.stem for file in files], [file.parent.name for file in files]]
    said = [[_number_after(word, *each) for each in zip(*names, strict=True)] for word in _COUNTED]
    for numbers in said + [_only_difference(each) for each in names]:
        found = [number for number in numbers if number is not None]
        if len(set(found)) == len(files):
            return found
    return None


def _number_after(word: str, *names: str) -> int | None:
    """Returns the whole number after a word in the first of the names that has one."""
    pattern = rf"{word}[^a-z0-9]{{0,2}}(\d{{1,15}})(?!\d|\.\d)"
    matches = (re.search(pattern, name, re.IGNORECASE) for name in names)
    return next((int(match[1]) for match in matches if match), None)


def _only_difference(names: list[str]) -> list[int | None]:
    """Returns the whole numbers in which alone the names differ, or None for each."""
    columns = list(zip(*map(_NUMBER.split, names), strict=False))
    differing = [column for column in columns if len(set(column)) > 1]
    same_length = len({len(_NUMBER.split(name)) for name in names}) == 1
    if not same_length or len(differing) != 1 or not all(re.fullmatch(r"\d{1,15}", each) for each in differing[0]):
        return [None] * len(names)
    return [int(each) for each in differing[0]]
