"""Reads and writes results, a line for each run, so that claims can be judged without the runs' folders."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .._errors import InputError, RunError
from .._files import json_lines, write_json_lines
from ..metrics import DEFINITIONS_VERSION
from ..sweeps import SCHEMA_VERSION, THEORY_VERSION
from ..training import RunConfig
from .results import Result

#: The file beside the page.
RESULTS = "results.jsonl"

#: The versions that a line was written with: of the defaults that its configuration leaves out, and of its numbers.
_VERSIONS = {"schema": SCHEMA_VERSION, "definitions": DEFINITIONS_VERSION, "theory": THEORY_VERSION}


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
            result = _result(json.loads(line))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            why = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            raise RunError(
                f"line {number} of {path} is not a result ({why}); delete it to run that one again"
            ) from error
        found[result.config] = result
    return found


def _line(result: Result) -> dict[str, Any]:
    return {
        "config": result.config.changed,
        **_VERSIONS,
        "values": dict(result.values),
        "notes": list(result.notes),
        "provenance": list(result.provenance),
    }


def _result(line: Any) -> Result:
    for name, version in _VERSIONS.items():
        if line[name] != version:
            raise InputError(f"its version of {name} is {line[name]}, but this package has {version}")
    values = {key: float(value) for key, value in line["values"].items()}
    return Result(RunConfig(**line["config"]), values, tuple(line["notes"]), tuple(line["provenance"]))
