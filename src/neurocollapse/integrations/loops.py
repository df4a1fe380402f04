"""The common part of the callbacks for training loops: when to measure, and which numbers to log."""

import inspect
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from .._errors import InputError, InputTypeError, did_you_mean
from ..measuring import CaptureOptions, indices_of, measure_model, reloaded
from ..metrics import METRICS, Measurement

_OPTIONS = (*inspect.signature(measure_model).parameters, *CaptureOptions.__annotations__)


class Probe:
    """Calls `measure_model` with fixed arguments, again and again while a model trains.

    Args:
        every: the number of epochs from one measurement to the next.
        keys: the keys of `METRICS` to log; by default all.
        prefix: the prefix of the logged names.
        options: arguments of `measure_model`.

    Raises:
        ValueError: if `every` is less than one, or for an unknown key.
        TypeError: for an unknown option.

    >>> probe = Probe(every=5, keys=["nc1", "weight_norms"], prefix="nc/", options={"weight_decay": 0.1})
    >>> [epoch for epoch in range(1, 13) if probe.is_due(epoch)]
    [5, 10]
    """

    def __init__(self, every: int, keys: Collection[str] | None, prefix: str, options: Mapping[str, Any]):
        if every < 1:
            raise InputError(f"measure every 1 or more epochs, got {every}")
        # check now, and not after the first epochs
        for key in keys or ():
            if key not in METRICS:
                raise InputError(f"there is no key {key!r}{did_you_mean(key, METRICS)}; see neurocollapse.METRICS")
        for option in options:
            if option not in _OPTIONS:
                raise InputTypeError(
                    f"there is no option {option!r}{did_you_mean(option, _OPTIONS)}; see measure_model"
                )
        self.every, self.keys, self.prefix, self.options = every, keys, prefix, options
        #: the last measurement
        self.measurement: Measurement | None = None

    def is_due(self, epoch: int) -> bool:
        """Whether to measure after this epoch; the first is 1."""
        return epoch % self.every == 0

    def __call__(self, model: nn.Module, loader: Iterable[Any]) -> dict[str, float]:
        """Measures the model and returns the numbers to log, by name; `weight_norms` become `weight_norms.0`, ..."""
        # Read the samples in order: shuffling would draw from the loader's generator, and so change the training.
        if isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset):
            loader = reloaded(loader, indices_of(loader))
        self.measurement = measure_model(model, loader, **self.options)
        values: dict[str, float] = {}
        for key in self.keys or self.measurement:
            value = self.measurement[key]
            if isinstance(value, tuple):
                values |= {f"{self.prefix}{key}.{layer}": number for layer, number in enumerate(value)}
            else:
                values[f"{self.prefix}{key}"] = value
        return values
