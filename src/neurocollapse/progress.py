"""Watching a sweep: a bar per run with loss, accuracy, NC1 and the time left; plain lines where there is no screen."""

import math
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from .sweep import Event, train_side_by_side
from .training import RunConfig


def duration(seconds: float) -> str:
    """`45 s`, `3 min 20 s`, `2 h 5 min`.

    >>> duration(200)
    '3 min 20 s'
    """
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def names(configs: Sequence[RunConfig]) -> list[str]:
    """Short names that tell the runs of a sweep apart: λ, the seed, and whatever else differs between them."""
    fields = [name for name in vars(RunConfig()) if len({getattr(config, name) for config in configs}) > 1]
    fields = [name for name in fields if name not in ("weight_decay", "seed")]
    return [
        " ".join([f"λ={config.weight_decay:g}", f"seed {config.seed}", *(f"{n}={getattr(config, n)}" for n in fields)])
        for config in configs
    ]


def follow(
    configs: Sequence[RunConfig], out: Path, *, data_dir: Path | None, workers: int, device: str, console: Console
) -> list[dict[str, str]]:
    """Train the configurations with progress on the console; the runs that failed, each with its message."""
    labels = names(configs)
    failures: list[dict[str, str]] = []
    events = train_side_by_side(configs, out, data_dir=data_dir, workers=workers, device=device)
    with closing(events), _bars(console) as progress:
        watch = _Watch(progress, configs, labels)
        for event in events:
            watch.show(event)
            if event.kind == "failed":
                failures.append({"run": labels[event.index], "message": event.message})
                progress.console.print(f"failed: {labels[event.index]}: {event.message}", markup=False, emoji=False)
    return failures


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TextColumn("epoch {task.completed}/{task.total}"),
        TextColumn("L {task.fields[objective]}  acc {task.fields[accuracy]}  NC1 {task.fields[nc1]}"),
        TimeRemainingColumn(),
        console=console,
    )


class _Watch:
    """The bars of a sweep. A run's bar appears with its first news, so that what waits takes no room."""

    def __init__(self, progress: Progress, configs: Sequence[RunConfig], labels: Sequence[str]):
        self.progress, self.configs, self.labels = progress, configs, labels
        self.bars: dict[int, TaskID] = {}
        self.total = progress.add_task(
            "all", total=sum(config.epochs for config in configs) or None, objective="", accuracy="", nc1=""
        )

    def show(self, event: Event) -> None:
        if event.index not in self.bars:
            epochs = self.configs[event.index].epochs
            self.bars[event.index] = self.progress.add_task(
                self.labels[event.index], total=epochs, completed=event.epoch, objective="", accuracy="", nc1=""
            )
        bar = self.bars[event.index]
        if event.kind == "epoch":
            fields: dict[str, Any] = {} if math.isnan(event.objective) else {"objective": f"{event.objective:.4f}"}
            if event.nc1 is not None and event.accuracy is not None:
                fields |= {"accuracy": f"{event.accuracy:.2%}", "nc1": f"{event.nc1:.3g}"}
            self.progress.update(bar, completed=event.epoch, **fields)
            if event.nc1 is not None and not self.progress.console.is_terminal:
                self._line(event)
        else:
            self.progress.update(bar, completed=self.configs[event.index].epochs, visible=False)
        done = sum(self.progress.tasks[task].completed for task in self.bars.values())
        self.progress.update(self.total, completed=done)

    def _line(self, event: Event) -> None:
        epochs = self.configs[event.index].epochs
        self.progress.console.print(
            f"{self.labels[event.index]}: epoch {event.epoch}/{epochs}, objective {event.objective:.4f}, "
            f"accuracy {event.accuracy:.2%}, NC1 {event.nc1:.3g}"
        )
