"""Reads and writes results, a line for each run, so that claims can be judged without the runs' folders."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._errors import InputError, RunError
from .._files import in_one_line, json_lines, write_json_lines
from .._schema import parsed, typed
from ..metrics import DEFINITIONS_VERSION
from ..sweeps import THEORY_VERSION
from ..training import DEFAULTS_VERSION, RunConfig, former_defaults
from .results import Result

#: The file beside the page.
RESULTS = "results.jsonl"

#: The versions of the numbers in a line.
_VERSIONS = {"definitions": DEFINITIONS_VERSION, "theory": THEORY_VERSION}


@dataclass(frozen=True)
class _Line:
    """The keys of a line, with their types."""

    config: dict[str, Any]
    definitions: int
    theory: int
    values: dict[str, float]
    notes: tuple[str, ...]
    provenance: tuple[dict[str, Any], ...]
    defaults: int | None = None
    """The version of the defaults, which the configuration leaves out; `schema` in older lines."""
    schema: int | None = None


def write_results(path: Path, results: Iterable[Result]) -> None:
    """Writes a line for each result: the fields that differ from the defaults, the numbers, and where it ran."""
    write_json_lines(path, map(_line, results))


def read_results(path: Path) -> dict[RunConfig, Result]:
    """Reads the results in a file, by their configurations. The last of several for one run counts.

    The result is empty if there is no file. Raises `RunError` if a line is not a result, or has another version.
    """
    found: dict[RunConfig, Result] = {}
    for number, line in json_lines(path):
        if not line:
            continue
        try:
            result = _result(typed(_Line, parsed(line, number)))
        except Exception as error:
            why = in_one_line(error)
            raise RunError(
                f"line {number} of {path} is not a result ({why}); take that line out to train its run again"
            ) from error
        found[result.config] = result
    return found


def _line(result: Result) -> dict[str, Any]:
    return {
        "config": result.config.changed,
        "defaults": DEFAULTS_VERSION,
        **_VERSIONS,
        "values": dict(result.values),
        "notes": list(result.notes),
        "provenance": list(result.provenance),
    }


def _result(line: _Line) -> Result:
    for name, version in _VERSIONS.items():
        if getattr(line, name) != version:
            raise InputError(f"its version of {name} is {getattr(line, name)}, but this package has {version}")
    defaults = line.schema if line.defaults is None else line.defaults
    if defaults is None or defaults > DEFAULTS_VERSION:
        raise InputError(f"its version of the defaults is {defaults}, but this package has {DEFAULTS_VERSION}")
    config: RunConfig = typed(RunConfig, {**former_defaults(defaults), **line.config}, "config")
    if unknown := sorted(line.config.keys() - vars(config).keys()):
        raise InputError(f"its config has the unknown field {unknown[0]!r}")
    return Result(config, line.values, line.notes, line.provenance)
