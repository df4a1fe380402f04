"""`runs`: what is in a folder. Loads no torch."""

from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from .._files import to_json
from .printing import messages, out_console, print_frame, rows, shown

if TYPE_CHECKING:
    import pandas as pd


def runs(folder: tyro.conf.Positional[Path], json: bool = False) -> int:
    """List the runs in a folder: how far each is, and its last numbers.

    Example: neurocollapse runs results/reproduce

    Args:
        folder: The folder that a command wrote with --out.
        json: Print JSON, where NaN and infinity are the strings "nan", "inf", "-inf", and null is what there is
            none of.
    """
    from ..sweeps import folders, runs_table

    found = folders(folder)
    print_runs(runs_table(found), json)
    damages = [damage for run in found if (damage := run.damage)]
    for damage in damages:
        messages.print(f"damaged: {damage}")
    return 1 if damages else 0


def print_runs(table: "pd.DataFrame", json: bool) -> None:
    if json:
        print(to_json(rows(table), indent=2))
    elif len(table):
        print_frame(table.map(shown), f"{len(table)} run(s)")
    else:
        out_console.print("no runs here")
