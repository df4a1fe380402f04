"""Many runs: the list of their configurations, and how long one should take."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .._html import html_table, listed
from ..datasets import Dataset
from ..training import RunConfig, recorded_epochs, train
from .networks_tried import few_of_each_class
from .threads import torch_threads

Axes = dict[str, Sequence[Any]]


@dataclass(frozen=True)
class Sweep:
    """The product of some fields' values over a base configuration.

    >>> [run.weight_decay for run in Sweep(RunConfig(), {"weight_decay": (0.0, 1e-3)})]
    [0.0, 0.001]
    """

    base: RunConfig
    axes: Axes

    def __iter__(self) -> Iterator[RunConfig]:
        for values in itertools.product(*self.axes.values()):
            yield replace(self.base, **dict(zip(self.axes, values, strict=True)))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def _repr_html_(self) -> str:
        axes = [(name, listed(values), f"{len(values)} value(s)") for name, values in self.axes.items()]
        base = [(name, str(value), "") for name, value in self.base.changed.items() if name not in self.axes]
        count = math.prod(len(values) for values in self.axes.values())  # not len(self): a wrong field is shown too
        return html_table(f"Sweep of {count} run(s); the rest at the defaults", axes + base)


#: Training samples that the estimate is timed on.
_SAMPLE = 1000


def estimate_seconds(config: RunConfig, dataset: Dataset, device: str = "cpu") -> float:
    """How long the run should take by itself, on one thread or a GPU, timed here and now on a few of its data."""
    labels = dataset.train.labels
    small = few_of_each_class(dataset, _SAMPLE)
    share = len(small.train.labels) / len(labels)
    with torch_threads(1):
        # On a GPU the first epochs set things up and record the step. A step takes as long at any learning rate; at
        # this one it cannot diverge.
        *_, last = train(replace(config, epochs=1 if device == "cpu" else 3, learning_rate=1e-9), small, device=device)
    test_share = 1.0 if dataset.test is None else 1 + len(dataset.test.labels) / len(labels)
    epochs = config.epochs * last.seconds["train"] / share
    records = len(recorded_epochs(config.epochs)) * last.seconds["measure"] * test_share / share
    return epochs + records
