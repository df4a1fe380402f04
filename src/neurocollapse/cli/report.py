"""`report`: a folder of runs as one HTML file."""

import json as json_format
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from .._errors import InputError, RunError
from .._files import write_text
from ..training import RunConfig
from .printing import messages, out_console

if TYPE_CHECKING:
    from ..reports import ReportRun
    from ..sweeps import RunFolder

#: What people call the data sets.
_TITLES = {"mnist5k": "5,000 MNIST digits", "mnist": "MNIST", "cifar10": "CIFAR-10"}

#: What a verdict in claims.json has.
_VERDICT = {"claim", "source", "setting", "verdict", "parts"}

#: Seconds between two looks at runs that go on, and after which a page of theirs loads itself again.
_LOOK, _RELOAD = 3.0, 10.0


def report(folder: tyro.conf.Positional[Path], follow: bool = False) -> int:
    """Write everything that was found in a folder of runs into one HTML file, which opens anywhere and offline.

    Curves, the samples in motion, Gram matrices, norms of the layers, and the theory tables and claims that were made.

    Example: neurocollapse report results/reproduce

    Args:
        folder: The folder that a command wrote with --out.
        follow: Keep the page current while runs write, until Ctrl-C; it loads itself again.
    """
    from ..sweeps import folders

    if follow and not folder.exists():
        folder.mkdir(parents=True)
        messages.print(f"{folder} was not there, and is a new folder now")
    path, damages = write_report(folder, reload_seconds=_RELOAD if follow else None, begun=not follow)
    out_console.print(f"report: {path}")
    for damage in damages:
        messages.print(f"damaged: {damage}")
    if not follow:
        return 1 if damages else 0
    if not folders(folder):
        messages.print(f"there are no runs in {folder} yet: waiting for them, until Ctrl-C")
    try:
        seen = _changed(folder)
        while True:
            time.sleep(_LOOK)
            if (now := _changed(folder)) != seen:
                seen = now
                write_report(folder, reload_seconds=_RELOAD, begun=False)
                messages.print(f"{time.strftime('%H:%M:%S')}: written anew")
    except KeyboardInterrupt as stop:  # or a kind of it
        write_report(folder, begun=False)
        raise type(stop)(f"{path} is as the runs are now, and loads itself no more") from None


def write_report(folder: Path, *, reload_seconds: float | None = None, begun: bool = True) -> tuple[Path, list[str]]:
    """The report on the runs in a folder, written there, and what of the folder is damaged, which it leaves out.

    Raises `RunError` where no runs are, unless they need not have `begun`.
    """
    from ..reports import report_content, report_page
    from ..sweeps import TheoryFile, folders

    found = folders(folder)
    if not found and begun:
        raise RunError(f"there are no runs in {folder}; name a folder that --out made")
    left_out: list[str] = []
    runs = [_as_found(run, left_out) for run in found]
    alone = [run.path for run in found] == [folder]
    kept = TheoryFile((folder.parent if alone else folder) / "theory.json")
    left_out += [kept.damage] if kept.damage else []
    claims = _claims(folder / "claims.json", left_out)
    content = report_content(
        runs,
        title=titled([run.config for run in found if run.damage is None]),
        theory={run.path.name: table.to_dict() for run in found if (table := kept.get(run)) is not None},
        claims=claims,
        left_out=left_out,
        reload_seconds=reload_seconds,
    )
    path = folder / "report.html"
    write_text(path, report_page(content))
    return path, [run.message for run in runs if run.status == "damaged"] + left_out


def titled(configs: Iterable[RunConfig]) -> str:
    """`Neural collapse of the convnet on MNIST`, of all networks and data that the configurations name."""
    kept = list(configs)
    networks = sorted({f"the {config.network}" for config in kept})
    datasets = sorted({_TITLES.get(config.dataset, Path(config.dataset).name) for config in kept})
    told = [f" {word} {' and '.join(names)}" for word, names in (("of", networks), ("on", datasets)) if names]
    return "Neural collapse" + "".join(told)


def _as_found(folder: "RunFolder", left_out: list[str]) -> "ReportRun":
    """A run for the page; what is damaged of a run that is whole all the same joins what is left out."""
    from ..reports import ReportRun

    try:
        folder.check_whole()
        described, result = folder.description, folder.result or {"status": "unfinished"}
        return ReportRun(
            name=folder.path.name,
            status=result["status"],
            config=described["config"],
            message=result.get("message", ""),
            num_classes=described["num_classes"],
            records=folder.records(),
            snapshots=_snapshots(folder, left_out),
            seconds=math.fsum(line[part] for line in folder.timings() for part in line.keys() - {"epoch"}),
            provenance=described.get("provenance", []),
            notes=described.get("notes", []),
        )
    except RunError as error:
        return ReportRun(folder.path.name, "damaged", message=str(error))


def _snapshots(folder: "RunFolder", left_out: list[str]) -> dict[int, dict[str, Any]]:
    try:
        return folder.snapshots()
    except RunError as error:
        left_out.append(f"the samples of a run: {error}")
        return {}


def _claims(path: Path, left_out: list[str]) -> list[Any]:
    """Verdicts, where `claims` has written them."""
    try:
        found = json_format.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, list) or not all(isinstance(each, dict) and each.keys() >= _VERDICT for each in found):
            raise InputError("it holds no verdicts")
    except FileNotFoundError:
        return []
    except (ValueError, OSError) as error:
        left_out.append(f"{path} cannot be read ({error}); delete it, or run claims again")
        return []
    return found


def _changed(folder: Path) -> list[tuple[str, int]]:
    """What a page is made from, with when it was last written."""
    named: Iterable[Path] = [*folder.glob("**/*.json"), *folder.glob("**/records.jsonl")]
    return sorted((str(path), path.stat().st_mtime_ns) for path in named if path.exists())
