"""`verify` and `solve`: theory beside measurement."""

from pathlib import Path
from typing import Any

import pandas as pd
import tyro
from rich.progress import track

from ..progress import names
from ..shelf import folders
from ..store import RunFolder, to_json
from ..theory import STATEMENTS, TheoryTable
from ..verification import ALONG, TheoryFile, VerificationError, verify_run, verify_runs
from .printing import messages, out_console, print_frame


def verify(
    run: tyro.conf.Positional[Path | None] = None,
    data_dir: Path | None = None,
    force: bool = False,
    json: bool = False,
) -> int:
    """Each identity and prediction of the theory beside what a trained network shows, with the residual.

    A run prints the whole table. A folder of runs prints the residuals of all of them side by side, and keeps the
    tables in its theory.json.

    Example: neurocollapse verify results/reproduce

    Args:
        run: Folder of a finished run, or of several.
        data_dir: Where mnist or cifar10 lie.
        force: Report on networks too that the theory does not speak of, every row marked.
        json: Print JSON, where NaN and infinity are the strings "nan", "inf", "-inf", and null is what there is
            none of.
    """
    if run is None:
        raise VerificationError("verify takes the folder of a run, or of several")
    found = folders(run)
    if not found:
        raise VerificationError(f"there are no runs in {run}; name a folder that --out made")
    if found[0].path == run:
        table = verify_run(found[0], data_dir=data_dir, force=force)
        out_console.print(to_json(table.to_dict(), indent=2) if json else str(table))
        return 0
    return _print_side_by_side(found, run / "theory.json", data_dir, force, json)


def _print_side_by_side(
    found: list[RunFolder], theory_file: Path, data_dir: Path | None, force: bool, json: bool
) -> int:
    tables = keep_tables(found, theory_file, data_dir=data_dir, force=force)
    if json:
        print(to_json({folder.path.name: table.to_dict() for folder, table in tables.items()}, indent=2))
    elif tables:
        labels = names([folder.config for folder in tables])
        _print_residuals(dict(zip(labels, tables.values(), strict=True)))
        out_console.print(f"every number is in {theory_file}; `neurocollapse verify RUN` prints the table of one")
    return 0 if len(tables) == len(found) else 2


def keep_tables(
    found: list[RunFolder], theory_file: Path, *, data_dir: Path | None, force: bool = False
) -> dict[RunFolder, TheoryTable]:
    """The tables of these runs, kept in `theory_file`, with progress; what has none is told on the console."""
    tables = {}
    kept = TheoryFile(theory_file, force=force)
    known = all(kept.get(folder) for folder in found)
    verified = verify_runs(found, kept, data_dir=data_dir)
    for folder, table in track(verified, "verifying", len(found), console=messages, disable=known):
        if isinstance(table, str):
            messages.print(f"not verified: {table}")
        else:
            tables[folder] = table
    return tables


def _print_residuals(tables: dict[str, TheoryTable]) -> None:
    """The residuals of several runs, a column each."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for label, table in tables.items():
        for reading, comparisons in table.sections.items():
            for comparison in comparisons:
                row = rows.setdefault((reading, comparison.name), {"": comparison.name})
                row[label] = f"{comparison.residual:.1e}"
    for reading in (*STATEMENTS, ALONG):
        frame = pd.DataFrame([row for (of, _), row in rows.items() if of == reading], columns=["", *tables])
        if len(frame):
            print_frame(frame, f"residuals {reading}")
