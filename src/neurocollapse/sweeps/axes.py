"""The configurations of a sweep, and an estimate of how long one run takes."""

import itertools
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .._errors import InputError, InputTypeError, check_names, checks_arguments
from .._html import html_table, listed
from ..datasets import Dataset
from ..statistics import torch_threads
from ..training import RunConfig, epochs, last_epoch, recorded_epochs
from .networks_tried import few_of_each_class

#: More runs than any machine trains, and few enough to check one by one.
_MOST_RUNS = 20_000


@checks_arguments
@dataclass(frozen=True)
class Sweep:
    """Many configurations: every combination of some fields' values over a base. It is iterable and has a length.

    Args:
        base: the configuration that all runs share.
        axes: the values of each field that varies, by the field's name.

    Raises:
        InputError: there is no such field, no value, a value twice, or a single string in place of a sequence; or the
            field cannot take a value.

    >>> [run.weight_decay for run in Sweep(RunConfig(), {"weight_decay": (0.0, 1e-3)})]
    [0.0, 0.001]
    """

    base: RunConfig
    axes: Mapping[str, Any]
    """The values of each field that varies, as tuples."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "axes", {name: self._values(name, given) for name, given in self.axes.items()})
        if len(self) > _MOST_RUNS:
            raise InputError(
                f"a sweep has at most {_MOST_RUNS} runs, and these values make "
                f"{' × '.join(str(len(values)) for values in self.axes.values())}; sweep over fewer at a time"
            )
        self._check_that_runs_differ()

    def _values(self, name: str, given: Any) -> tuple[Any, ...]:
        """Returns the values of a field as the configuration holds them."""
        check_names("a run", [name], vars(self.base), "field")
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise InputTypeError(f"{name} takes a sequence of values, got {given!r}; write [{given!r}]")
        few = tuple(itertools.islice(given, _MOST_RUNS + 1))
        if len(few) > _MOST_RUNS:
            raise InputError(
                f"{name} has more than {_MOST_RUNS} values, the most runs of a sweep; take fewer at a time"
            )
        values = tuple(getattr(replace(self.base, **{name: value}), name) for value in few)
        if not values:
            raise InputError(f"{name} needs at least one value, got none")
        if len(set(values)) < len(values):
            raise InputError(f"{name} has a value twice: {', '.join(map(str, values))}")
        return values

    def _check_that_runs_differ(self) -> None:
        """Raises `InputError` for a field that makes no difference to any run, and warns of runs that repeat others."""
        runs = list(self)
        idle = [config.idle for config in runs]
        for name in self.axes:
            if all(name in each for each in idle):
                raise InputError(
                    f"{name} makes no difference to these runs: it needs {idle[0][name]}; set that, or leave {name} out"
                )
        wanting = {f"{name} needs {each[name]}" for each in idle for name in self.axes if name in each}
        differing = {
            frozenset(vars(run).items() - {(name, getattr(run, name)) for name in names})
            for run, names in zip(runs, idle, strict=True)
        }
        if wanting and len(differing) < len(runs):
            warnings.warn(
                f"{len(self) - len(differing)} of the {len(self)} runs repeat others: {', '.join(sorted(wanting))}",
                stacklevel=5,  # where the sweep is made
            )

    def __iter__(self) -> Iterator[RunConfig]:
        for values in itertools.product(*self.axes.values()):
            yield replace(self.base, **dict(zip(self.axes, values, strict=True)))

    def __len__(self) -> int:
        return math.prod(map(len, self.axes.values()))

    def _repr_html_(self) -> str:
        axes = [(name, listed(values), f"{len(values)} value(s)") for name, values in self.axes.items()]
        base = [(name, str(value), "") for name, value in self.base.changed.items() if name not in self.axes]
        return html_table(f"Sweep of {len(self)} run(s); the rest at the defaults", axes + base)


#: The number of training samples that the estimate is timed on.
_SAMPLE = 1000


def estimate_seconds(config: RunConfig, dataset: Dataset, device: str = "cpu") -> float:
    """Estimates the seconds that the run takes alone, on one thread or a GPU, by timing it now on a few samples.

    A run until rest counts with all its rounds, since nobody knows when it will be at rest.
    """
    labels = dataset.train.labels
    small = few_of_each_class(dataset, _SAMPLE)
    share = len(small.train.labels) / len(labels)
    with torch_threads(1):
        # On a GPU the first epochs set things up and record the step. A step takes as long at any learning rate; at
        # this one it cannot diverge.
        short = replace(config, epochs=1 if device == "cpu" else 3, until="epochs", learning_rate=1e-9)
        *_, last = epochs(short, small, device=device)
    test_share = 1.0 if dataset.test is None else 1 + len(dataset.test.labels) / len(labels)
    training = last_epoch(config) * last.seconds["train"] / share
    records = len(recorded_epochs(config)) * last.seconds["measure"] * test_share / share
    return training + records
