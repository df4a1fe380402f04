"""The events by which an engine reports on the runs that it trains."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Event:
    """An event of the run at place `index` of the sweep: an epoch was trained, or the run ended (`kind` says how).

    `failed` ends that run alone; `stuck` means that the disk fails, which all runs share.
    """

    index: int
    kind: Literal["waiting", "epoch", "done", "failed", "stuck"]
    epoch: int = 0
    objective: float = float("nan")
    accuracy: float | None = None
    nc1: float | None = None
    message: str = ""
