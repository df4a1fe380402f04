"""Shows the progress of a sweep: a bar per run with loss, accuracy, NC1 and the time left, or plain lines."""

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from .._progress import Progress
from ..training import RunConfig, last_epoch
from .engines.events import Event

if TYPE_CHECKING:
    import rich.progress


def run_labels(configs: Sequence[RunConfig]) -> list[str]:
    """Returns short names for the runs of a sweep: λ, the seed, and the other fields in which they differ.

    A field at its default is left out.
    """
    defaults = {name: value for name, value in vars(RunConfig()).items() if name not in ("weight_decay", "seed")}
    different = [name for name in defaults if len({getattr(config, name) for config in configs}) > 1]

    def label(config: RunConfig) -> str:
        own = ((name, getattr(config, name)) for name in different)
        shown = [f"{name}={value}" for name, value in own if value != defaults[name]]
        return " ".join([f"λ={config.weight_decay:g}", f"seed {config.seed}", *shown])

    return [label(config) for config in configs]


def follow(
    events: Generator[Event, None, None],
    configs: Sequence[RunConfig],
    labels: Sequence[str],
    *,
    progress: Progress,
    on_news: Callable[[int], None],
) -> dict[int, str]:
    """Shows what an engine yields about these runs; returns the indices of the failed runs with their messages.

    `on_news` is called with the index of a run that has a new record on disk, or has ended.
    """
    failures: dict[int, str] = {}
    with closing(events), watched(configs, labels, progress) as show:
        for event in events:
            show(event)
            if event.nc1 is not None or event.kind in ("done", "failed"):
                on_news(event.index)
            if event.kind == "failed":
                failures[event.index] = event.message
    return failures


@contextmanager
def watched(
    configs: Sequence[RunConfig], labels: Sequence[str], progress: Progress
) -> Iterator[Callable[[Event], None]]:
    """Shows bars for these runs, and yields a function that updates them with an event."""
    with progress.bars("epoch {task.completed}/{task.total}", "{task.fields[news]}") as bars:
        yield _Watch(bars, configs, labels).show


class _Watch:
    """The bars of a sweep. A run's bar appears with its first event, so that runs not yet started take no room."""

    def __init__(self, bars: "rich.progress.Progress", configs: Sequence[RunConfig], labels: Sequence[str]):
        self.progress, self.configs, self.labels = bars, configs, labels
        self.bars: dict[int, rich.progress.TaskID] = {}
        self.measured = dict.fromkeys(range(len(configs)), "")  # the last accuracy and NC1, known at some epochs only
        self.total = bars.add_task("all runs", total=sum(map(last_epoch, configs)), news="")

    def show(self, event: Event) -> None:
        epochs, label = last_epoch(self.configs[event.index]), self.labels[event.index]
        if event.index not in self.bars:
            self.bars[event.index] = self.progress.add_task(label, total=epochs, completed=event.epoch, news="")
        bar = self.bars[event.index]
        if event.kind == "waiting":
            self.progress.console.print(f"waiting: another process is training {label}")
        elif event.kind == "epoch":
            objective = "" if math.isnan(event.objective) else f"L {event.objective:.4f}  "
            if event.nc1 is not None and event.accuracy is not None:
                self.measured[event.index] = f"accuracy {event.accuracy:.2%}  NC1 {event.nc1:.3g}"
                if not self.progress.console.is_terminal:
                    self.progress.console.print(
                        f"{label}: epoch {event.epoch}/{epochs}  {objective}{self.measured[event.index]}"
                    )
            self.progress.update(bar, completed=event.epoch, news=objective + self.measured[event.index])
        else:
            self.progress.update(bar, completed=epochs, visible=False)
        if event.kind == "failed":
            self.progress.console.print(f"failed: {label}: {event.message}")
        done = sum(self.progress.tasks[task].completed for task in self.bars.values())
        self.progress.update(self.total, completed=done)
