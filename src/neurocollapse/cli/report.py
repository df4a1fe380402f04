"""The command `report`: writes a report on a folder of runs."""

import time
from collections.abc import Iterable
from pathlib import Path

import tyro

from .parsing import refuse
from .printing import messages, out_console

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
        refuse("a trajectory is complete", follow=follow)
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


def _changed(folder: Path) -> list[tuple[str, int]]:
    """Returns the files from which a page is made, with the time when each was last written."""
    named: Iterable[Path] = [*folder.glob("**/*.json"), *folder.glob("**/records.jsonl")]
    return sorted((str(path), path.stat().st_mtime_ns) for path in named if path.exists())
