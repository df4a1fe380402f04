"""The command `runs`: lists the runs in a folder, without loading torch."""

from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from .._files import to_json
from .printing import messages, out_console, print_frame, rows, shown

if TYPE_CHECKING:
    import pandas as pd


def runs(folder: tyro.conf.Positional[Path], json: bool = False) -> int:
    """List the runs in a folder, with the last epoch and the last numbers of each.

    Example: neurocollapse runs results/reproduce

    Args:
        folder: The folder that a command wrote with --out.
        json: Print JSON, with NaN and infinity as the strings "nan", "inf", "-inf", and null where there is no value.
    """
    from ..sweeps import folders, runs_table

    found = folders(folder)
    print_runs(runs_table(found), json)
    damages = [damage for run in found if (damage := run.damage)]
    for damage in damages:
        messages.print(f"damaged: {damage}")
    for remark in (remark for run in found if not run.damage for remark in run.remarks):
        messages.print(f"note: {remark}")
    return 1 if damages else 0


def print_runs(table: "pd.DataFrame", json: bool) -> None:
    """Prints a table of runs, as text or as JSON."""
    if json:
        print(to_json(rows(table), indent=2))
    elif len(table):
        print_frame(table.map(shown), f"{len(table)} run(s)")
    else:
        out_console.print("no runs here")
