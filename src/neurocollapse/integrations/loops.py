"""The common part of the callbacks for training loops: when to measure, which numbers to log, what may fail."""

import inspect
import itertools
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from .._errors import CaptureWarning, InputError, InputTypeError, did_you_mean
from ..measuring import CaptureOptions, indices_of, measure_model, reloaded, try_model
from ..metrics import METRICS, Measurement
from ..sweeps import Recorder

_OPTIONS = (*inspect.signature(measure_model).parameters, *CaptureOptions.__annotations__)

#: A model and the data to measure it on, looked up when they are needed.
Subject = Callable[[], tuple[nn.Module, Iterable[Any]]]

T = TypeVar("T")


class Probe:
    """Calls `measure_model` with fixed arguments, again and again while a model trains.

    Args:
        every: the number of epochs from one measurement to the next.
        keys: the keys of `METRICS` to log; by default all.
        prefix: the prefix of the logged names.
        strict: whether an error while measuring is raised. Otherwise it becomes a warning, and the numbers are missing.
        options: arguments of `measure_model`.
        recorder: gets every measurement.

    Raises:
        ValueError: if `every` is less than one, or for an unknown key.
        TypeError: for an unknown option.

    >>> options = {"weight_decay": 0.1}
    >>> probe = Probe(every=5, keys=["nc1", "weight_norms"], prefix="nc/", strict=False, options=options)
    >>> [epoch for epoch in range(1, 13) if probe.is_due(epoch)]
    [5, 10]
    """

    def __init__(
        self,
        every: int,
        keys: Collection[str] | None,
        prefix: str,
        strict: bool,
        options: Mapping[str, Any],
        recorder: Recorder | None = None,
    ):
        if every < 1:
            raise InputError(f"measure every 1 or more epochs, got {every}")
        if isinstance(keys, str):
            raise InputTypeError(f"keys must be a sequence of keys, got {keys!r}; write [{keys!r}]")
        # check now, and not after the first epochs
        for option in options:
            if option not in _OPTIONS:
                raise InputTypeError(
                    f"there is no option {option!r}{did_you_mean(option, _OPTIONS)}; see measure_model"
                )
        if "nc1_vci" in (keys or ()) and options.get("vci") is None:
            options = {**options, "vci": True}  # it was asked for by name
        for key in keys or ():
            if key not in METRICS:
                raise InputError(f"there is no key {key!r}{did_you_mean(key, METRICS)}; see neurocollapse.METRICS")
        self.every, self.keys, self.prefix, self.strict, self.options = every, keys, prefix, strict, options
        self.recorder = recorder
        #: the last measurement
        self.measurement: Measurement | None = None
        #: its numbers by logged name; empty before the first measurement
        self.last: dict[str, float] = {}

    def is_due(self, epoch: int) -> bool:
        """Whether to measure after this epoch; the first is 1."""
        return epoch % self.every == 0

    def is_monitored(self, name: str | None) -> bool:
        """Whether a monitor of this name goes by a number. Raises `InputError` if there is no such number."""
        if name is None or not name.startswith(self.prefix):
            return False
        key = name.removeprefix(self.prefix).partition(".")[0]
        measured = [each for each in METRICS if not _lacking(each, self.options)]
        if key in (self.keys or measured):
            return True
        if self.prefix and (key not in METRICS or not self.keys):  # another callback may log the other keys
            raise InputError(f"a monitor goes by {name!r}, which is not measured{did_you_mean(key, measured)}")
        return False

    def try_out(self, subject: Subject) -> None:
        """Raises what a measurement would raise at the first batch, so that it shows before the training."""
        for key in self.keys or ():
            if remedy := _lacking(key, self.options):
                raise InputError(f"key {key!r} is not measured with these options; pass {remedy}")
        model, loader = subject()
        if isinstance(loader, Iterator) or isinstance(getattr(loader, "dataset", None), Iterator):
            raise InputError(
                f"the data are an iterator ({type(loader).__name__}) that can be read once, and are read at every "
                f"measurement; pass a DataLoader or a list of batches as loader="
            )
        with torch.inference_mode(False):
            try_model(model, _in_order(loader), **self.options)

    def __call__(self, subject: Subject, epoch: int, *, writes: bool = True) -> dict[str, float]:
        """Measures as `measure` does and, if this process `writes`, records it; an error is a warning, unless strict.

        Returns no numbers if the measurement fails.
        """
        missing = "neural collapse was not measured, and its numbers are missing here"
        values = self._guarded(missing, lambda: self.measure(subject)) or {}
        recorder, measurement = self.recorder, self.measurement
        if values and writes and recorder is not None and measurement is not None:
            self._guarded(f"epoch {epoch} was not recorded", lambda: recorder.add(epoch, measurement))
        return values

    def _guarded(self, failure: str, call: Callable[[], T]) -> T | None:
        try:
            return call()
        except Exception as error:  # whatever it is, the training is worth more than the numbers
            if self.strict:
                raise
            text = " ".join(f"{type(error).__name__}: {error}".split())
            warnings.warn(
                f"{failure} ({text}); the training goes on; pass strict=True to stop it instead",
                CaptureWarning,
                stacklevel=3,
            )
            return None

    def measure(self, subject: Subject) -> dict[str, float]:
        """Measures the model and returns the numbers to log, by name; `weight_norms` become `weight_norms.0`, ..."""
        model, loader = subject()
        with torch.inference_mode(False):  # what is kept must serve outside, too
            self.measurement = measure_model(model, _in_order(loader), **self.options)
        self.last = {}
        for key in self.keys or self.measurement:
            value = self.measurement[key]
            if isinstance(value, tuple):
                self.last |= {f"{self.prefix}{key}.{layer}": number for layer, number in enumerate(value)}
            else:
                self.last[f"{self.prefix}{key}"] = value
        return self.last


class FirstBatches:
    """The first batches of a loader that may have no end."""

    def __init__(self, loader: Iterable[Any], most: int):
        self.loader, self.most = loader, most
        self.dataset = getattr(loader, "dataset", None)

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(self.loader, self.most)


def _in_order(loader: Iterable[Any]) -> Iterable[Any]:
    """Returns a plain loader of the same samples, in the data set's order if it has one.

    Shuffling would draw from the loader's generator, and Accelerate's loaders tell the training that an epoch ends:
    either would change the training.
    """
    if isinstance(loader, FirstBatches):
        return FirstBatches(_in_order(loader.loader), loader.most)
    if not isinstance(loader, DataLoader):
        return loader
    return reloaded(loader, None if isinstance(loader.dataset, IterableDataset) else indices_of(loader))


def _lacking(key: str, options: Mapping[str, Any]) -> str | None:
    """Returns what `measure_model` must get for this key, beside these options; None if they suffice."""
    lacking = dict.fromkeys(("nearest_mean_error", "layer_weight", "input_span"), "measure_layers")
    if options.get("weight_decay") is None:
        lacking["objective"] = "weight_decay="
    if options.get("ood") is None:
        lacking["ood_mean"] = "ood=, a loader of samples of no class"
    if options.get("strategy") == "stream":
        lacking["nearest_mean_disagreement"] = "strategy='keep' or 'twice'"
    elif options.get("vci") is False:
        lacking["within_class_covariance_on_span"] = "vci=True"
    return next((lacking[need] for need in METRICS[key].needs if need in lacking), None)
