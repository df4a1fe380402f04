"""The commands `report` and `map`: a page on a folder of runs, and its map."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import tyro

from .._files import atomic_path
from .parsing import refuse
from .printing import messages, out_console, print_frame, shown

#: The seconds between two looks at the folder of runs in training, and those after which their page reloads.
_LOOK, _RELOAD = 3.0, 10.0


def report(folder: tyro.conf.Positional[Path], follow: bool = False) -> int:
    """Write a report on a folder of runs: one HTML file, which opens anywhere and offline.

    It shows curves, the samples in motion, Gram matrices, the norms of the layers, and the theory tables and claims
    that are in the folder.

    Example: neurocollapse report results/reproduce

    Args:
        folder: The folder that a command, or a recorder in your own loop, wrote; or the .jsonl file of a trajectory.
        follow: Keep the page current while runs are trained, until Ctrl-C; the page reloads itself.
    """
    from ..reports import write_report
    from ..sweeps import folders

    if folder.suffix == ".jsonl":
        refuse("a trajectory is complete", "follow")
    if follow and not folder.exists():
        folder.mkdir(parents=True)
        messages.print(f"{folder} did not exist, and is a new folder now")
    path, damages = write_report(folder, reload_seconds=_RELOAD if follow else None, may_be_empty=follow)
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
                write_report(folder, reload_seconds=_RELOAD, may_be_empty=True)
                messages.print(f"{time.strftime('%H:%M:%S')}: written again")
    except KeyboardInterrupt as stop:  # or a kind of it
        write_report(folder, may_be_empty=True)
        raise type(stop)(f"{path} shows the runs as they are now, and no longer reloads itself") from None


def map(
    folder: tyro.conf.Positional[Path],
    across: str = "weight_decay",
    split: Literal["train", "test"] = "train",
    out: Path | None = None,
) -> int:
    """Draw a map of a sweep: a field across, all others that vary down, the colour a measure of the last records.

    A cell shows the median over the seeds, in brackets unless all its runs ended at rest. Beside the figure, map.csv
    has the numbers; the least NC1 of each row is printed.

    Example: neurocollapse map results/starts --across weight_decay

    Args:
        folder: The folder that `train` wrote with --out.
        across: The field whose values are side by side.
        split: Read on the training or the test data.
        out: The folder for the figure and its numbers; by default that of the runs.
    """
    from ..reports import least_over, map_figure, map_table, save_figure
    from ..sweeps import runs

    table = map_table(runs(folder), across, split=split)
    where = out or folder
    where.mkdir(parents=True, exist_ok=True)
    paths = save_figure(map_figure(table, across, title=f"{folder.name}, {split} data"), where, "map")
    with atomic_path(where / "map.csv", b",seeds,at_rest,") as temporary:
        table.to_csv(temporary, index=False)
    print_frame(least_over(table, across, "nc1").map(shown), f"NC1 over {across}, {split} data, median over seeds")
    out_console.print(f"figure: {paths[0]}   numbers: {where / 'map.csv'}")
    return 0


def _changed(folder: Path) -> list[tuple[str, int]]:
    """Returns the files from which a page is made, with the time when each was last written."""
    named: Iterable[Path] = [*folder.glob("**/*.json"), *folder.glob("**/records.jsonl")]
    return sorted((str(path), path.stat().st_mtime_ns) for path in named if path.exists())
