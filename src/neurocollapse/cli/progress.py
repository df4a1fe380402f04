"""Watching a sweep: a bar per run with loss, accuracy, NC1 and the time left; plain lines where there is no screen."""

import math
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ..sweeps import Engine, Event
from ..training import RunConfig


def duration(seconds: float) -> str:
    """`45 s`, `3 min 20 s`, `2 h 5 min`.

    >>> duration(200.0)
    '3 min 20 s'
    """
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def names(configs: Sequence[RunConfig]) -> list[str]:
    """Short names that tell the runs of a sweep apart: λ, the seed, and what else they differ in and is no default."""
    defaults = {name: value for name, value in vars(RunConfig()).items() if name not in ("weight_decay", "seed")}
    different = [name for name in defaults if len({getattr(config, name) for config in configs}) > 1]

    def named(config: RunConfig) -> str:
        own = ((name, getattr(config, name)) for name in different)
        told = [f"{name}={value}" for name, value in own if value != defaults[name]]
        return " ".join([f"λ={config.weight_decay:g}", f"seed {config.seed}", *told])

    return [named(config) for config in configs]


def follow(
    configs: Sequence[RunConfig],
    labels: Sequence[str],
    out: Path,
    *,
    engine: Engine,
    data_dir: Path | None,
    workers: int | None,
    device: str,
    console: Console,
    on_news: Callable[[int], None],
) -> dict[int, str]:
    """Train the configurations with progress on the console; the places of those that failed, with the message.

    `on_news` is called with the place of a run that has a new record on disk, or has ended.
    """
    if not configs:
        return {}
    failures: dict[int, str] = {}
    events = engine(configs, out, data_dir=data_dir, workers=workers, device=device)
    with closing(events), _bars(console) as progress:
        watch = _Watch(progress, configs, labels)
        for event in events:
            watch.show(event)
            if event.nc1 is not None or event.kind in ("done", "failed"):
                on_news(event.index)
            if event.kind == "waiting":
                progress.console.print(f"waiting: another process is training {labels[event.index]}")
            if event.kind == "failed":
                failures[event.index] = event.message
                progress.console.print(f"failed: {labels[event.index]}: {event.message}", markup=False, emoji=False)
    return failures


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TextColumn("epoch {task.completed}/{task.total}"),
        TextColumn("{task.fields[news]}"),
        TimeRemainingColumn(),
        console=console,
        speed_estimate_period=600,  # epochs of a large data set come minutes apart
    )


class _Watch:
    """The bars of a sweep. A run's bar appears with its first news, so that what waits takes no room."""

    def __init__(self, progress: Progress, configs: Sequence[RunConfig], labels: Sequence[str]):
        self.progress, self.configs, self.labels = progress, configs, labels
        self.bars: dict[int, TaskID] = {}
        self.measured = dict.fromkeys(range(len(configs)), "")  # the last accuracy and NC1, known at some epochs only
        self.total = progress.add_task("all runs", total=sum(config.epochs for config in configs), news="")

    def show(self, event: Event) -> None:
        epochs, label = self.configs[event.index].epochs, self.labels[event.index]
        if event.index not in self.bars:
            self.bars[event.index] = self.progress.add_task(label, total=epochs, completed=event.epoch, news="")
        bar = self.bars[event.index]
        if event.kind == "epoch":
            objective = "" if math.isnan(event.objective) else f"L {event.objective:.4f}  "
            if event.nc1 is not None and event.accuracy is not None:
                self.measured[event.index] = f"accuracy {event.accuracy:.2%}  NC1 {event.nc1:.3g}"
                if not self.progress.console.is_terminal:
                    self.progress.console.print(
                        f"{label}: epoch {event.epoch}/{epochs}  {objective}{self.measured[event.index]}"
                    )
            self.progress.update(bar, completed=event.epoch, news=objective + self.measured[event.index])
        elif event.kind in ("done", "failed"):
            self.progress.update(bar, completed=epochs, visible=False)
        done = sum(self.progress.tasks[task].completed for task in self.bars.values())
        self.progress.update(self.total, completed=done)
