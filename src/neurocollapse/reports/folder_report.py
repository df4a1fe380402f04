"""Reads a folder of runs from disk and writes the report on it as one HTML file."""

import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import GenericAlias
from typing import Any

from .._errors import RunError, checks_arguments
from .._files import in_one_line, path_of, read_bytes, write_text
from .._schema import parsed, typed
from ..datasets import PUBLICATIONS
from ..sweeps import RunFolder, TheoryFile, folders
from .page.content import ReportRun, report_content
from .page.html import report_page
from .trajectories import trajectory_runs

#: The names of the data sets in titles.
_TITLES = {"mnist5k": "5,000 MNIST digits", **{name: each.title for name, each in PUBLICATIONS.items()}}

#: What every page has.
PAGE_MARK = b'<script id="content" type="application/json">'

#: The keys that the page shows of a verdict in claims.json, of its parts, and of their findings.
_FINDING = {"label": str, "estimate": float, "low": float, "high": float, "seeds": int}
_PART = {"quantity": str, "verdict": str, "findings": GenericAlias(list, _FINDING)}
_VERDICT = {"claim": str, "source": str, "setting": str, "verdict": str, "parts": GenericAlias(list, _PART)}


@checks_arguments
def report(folder: Path | str) -> Path:
    """Writes the report on a folder of runs, one HTML file that opens anywhere and offline, and returns its path.

    It shows the curves, the samples in motion, Gram matrices, the layers' norms, and the theory tables and claims that
    are in the folder. The .jsonl file of a trajectory gets a page beside it. Damaged files are left out, with a
    warning. Raises `RunError` if the folder holds no run.
    """
    path, damages = write_report(path_of(folder, RunError))
    for damage in damages:
        warnings.warn(f"left out of the report: {damage}", stacklevel=3)
    return path


def write_report(
    folder: Path, *, reload_seconds: float | None = None, may_be_empty: bool = False
) -> tuple[Path, list[str]]:
    """Writes the report on a folder of runs; returns its path and the damage in the folder, which it leaves out.

    Raises `RunError` if there is no run, unless `may_be_empty`.
    """
    if folder.suffix == ".jsonl":
        return _write_trajectory(folder), []
    found = folders(folder)
    if not found and not may_be_empty:
        raise RunError(f"there are no runs in {folder}; name the folder that the runs were written to")
    left_out: list[str] = []
    runs = _told_apart([_as_found(run, left_out) for run in found])
    alone = [run.path for run in found] == [folder]
    kept = TheoryFile((folder.parent if alone else folder) / "theory.json")
    left_out += [kept.damage] if kept.damage else []
    claims = _claims(folder / "claims.json", left_out)
    content = report_content(
        runs,
        title=titled([run.config for run in runs if run.status != "damaged"]),
        theory={run.path.name: table.to_dict() for run in found if (table := kept.get(run)) is not None},
        claims=claims,
        left_out=left_out,
        reload_seconds=reload_seconds,
    )
    path = folder / "report.html"
    write_text(path, report_page(content), PAGE_MARK)
    return path, [run.message for run in runs if run.status == "damaged"] + left_out


def _write_trajectory(file: Path) -> Path:
    runs = _told_apart(trajectory_runs(file))
    models = [{"network": run.config["model"], "dataset": run.config["dataset"]} for run in runs]
    path = file.with_suffix(".html")
    write_text(path, report_page(report_content(runs, title=titled(models))), PAGE_MARK)
    return path


def titled(configs: Iterable[Mapping[str, Any]]) -> str:
    """Returns a title that names all networks and data, such as `Neural collapse of the convnet on MNIST`."""
    kept = list(configs)
    networks = sorted({f"the {config['network']}" for config in kept if config.get("network")})
    there = {str(config["dataset"]) for config in kept if config.get("dataset")}
    datasets = sorted({_TITLES.get(name, Path(name).name) for name in there})
    named = [f" {word} {' and '.join(names)}" for word, names in (("of", networks), ("on", datasets)) if names]
    return "Neural collapse" + "".join(named)


def _told_apart(runs: list[ReportRun]) -> list[ReportRun]:
    """Adds the name of each run to its configuration, unless λ or other fields of all tell the runs apart."""
    configs = [run.config for run in runs if run.status != "damaged"]
    distinct = all(configs) and len(set(map(repr, configs))) == len(configs)
    if distinct and (len(configs) != 1 or "weight_decay" in configs[0]):
        return runs
    return [replace(run, config={"run": run.name, **run.config}) for run in runs]


def _as_found(folder: RunFolder, left_out: list[str]) -> ReportRun:
    """Returns a run for the page. Damaged files on which no number of the run depends are added to `left_out`."""
    try:
        folder.check_whole()
        described, result = folder.description, folder.result or {"status": "unfinished"}
        return ReportRun(
            name=folder.path.name,
            status=result["status"],
            config=described["config"],
            message=result.get("message", ""),
            num_classes=described["num_classes"] or 0,
            records=folder.records(),
            snapshots=_snapshots(folder, left_out),
            seconds=_seconds(folder, left_out),
            provenance=described.get("provenance", []),
            notes=described.get("notes", []),
        )
    except RunError as error:
        return ReportRun(folder.path.name, "damaged", message=str(error))


def _snapshots(folder: RunFolder, left_out: list[str]) -> dict[int, dict[str, Any]]:
    try:
        return folder.snapshots()
    except RunError as error:
        left_out.append(f"the samples of a run: {error}")
        return {}


def _seconds(folder: RunFolder, left_out: list[str]) -> float:
    try:
        lines = folder.timings()
    except RunError as error:
        left_out.append(f"the seconds of a run: {error}")
        return math.nan
    return sum(line["train"] + line["measure"] for line in lines) if lines else math.nan


def _claims(path: Path, left_out: list[str]) -> list[Any]:
    """Returns the verdicts that `claims` has written, if any."""
    try:
        found: list[Any] = typed(GenericAlias(list, _VERDICT), parsed(read_bytes(path)))
        return found
    except FileNotFoundError:
        return []
    except Exception as error:  # the page is whole without them
        left_out.append(f"{path} cannot be read ({in_one_line(error)}); run claims again")
        return []
