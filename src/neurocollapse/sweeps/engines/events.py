"""What an engine tells of the runs that it trains."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Event:
    """News of the run at place `index` of the sweep: an epoch done, or its end (`kind` tells how).

    `failed` is the end of that run alone; `stuck` says that what all runs share, the disk, fails them.
    """

    index: int
    kind: Literal["waiting", "epoch", "done", "failed", "stuck"]
    epoch: int = 0
    objective: float = float("nan")
    accuracy: float | None = None
    nc1: float | None = None
    message: str = ""
