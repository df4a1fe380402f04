"""Measures what every layer of a model makes of its data."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, Literal, Unpack

import torch
from torch import Tensor, nn

from .._errors import InputError, checks_arguments
from ..datasets import Split
from ..geometry import Span, leading_directions
from ..metrics import Measurement
from ..statistics import ClassMeans, Statistics, center
from .capture.decisions import Tally
from .capture.forward import Captured, CaptureOptions, capture
from .capture.names import about
from .capture.store import FeatureStore
from .features import check_choice, chosen_of
from .models import chosen_samples
from .process_group import Processes
from .sweeping import about_head, classifier_of, fold_into, head_of, keep_within, two_sweeps


@checks_arguments
def measure_layers(
    model: nn.Module,
    loader: Iterable[Any] | Split,
    *,
    layers: Sequence[str] | Literal["all"] = "all",
    head: str | nn.Module | None = None,
    weighting: str = "classes",
    vci: bool | None = None,
    subset: int | None = None,
    absent: Literal["error", "leave_out"] = "error",
    min_per_class: int = 1,
    together: bool | None = None,
    **options: Unpack[CaptureOptions],
) -> dict[str, Measurement]:
    """Measures the output of every layer, and then the head's input, in one forward pass over a loader.

    Linear layers and convolutions also have the keys of their weight W, whose rows are filters in a convolution: its
    stable rank, the share of it in its leading singular directions, and how these are aligned with the class means of
    the layer's input, which for a convolution are those of its patches, over samples and positions.

    Args:
        model: any classifier.
        loader: yields (inputs, labels, ...) or mappings.
        layers: names as in `model.named_modules()`, or "all" layers that compute, in the order in which they run.
        head: the classifier head, a module or its name; by default the linear layer whose output is the model's.
        weighting: "classes" or "samples": see `measure`.
        vci: whether to measure `nc1_vci`: see `measure`.
        subset: measure only this many samples of every class.
        absent: "leave_out" measures without the classes that have no sample: see `measure`.
        min_per_class: how many samples a class has at least: see `measure`.
        together: whether to share the samples with the other processes of the process group: see `measure_model`.
        options: see `measure_model`; `spatial` and `tokens` say how maps and sequences become features.

    Returns:
        {layer: Measurement}. The last one measures the head's input, under the head's name. Only it has the keys that
        need the classifier. `collapse_depth` says from which layer on the nearest class means decide right.

    >>> import neurocollapse as nc
    >>> import torch
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> list(nc.measure_layers(network, [(torch.randn(9, 2, 2), torch.arange(9) % 2)]))
    ['1', '2', '3']
    """
    processes, tally = Processes(together), Tally()
    max_per_class = options.get("max_per_class")
    check_choice(absent, min_per_class, max_per_class)
    loader = chosen_samples(loader, subset, options.get("label_key"))
    part = processes.share(loader)
    if not all(processes.all(lambda: part is not None)):  # fewer samples than processes: each measures all of them
        processes, part = Processes(together=False), loader
    read = partial(capture, model, part, head=head, layers=layers, inputs=True, tally=tally, **options)
    with ExitStack() as stack:
        captured = processes.each(lambda: stack.enter_context(read()))
        keep_within(processes, captured, max_per_class)
        found, _ = head_of(captured)
        choose = partial(chosen_of, absent=absent, min_per_class=min_per_class)
        measured = partial(_measured, captured, processes, choose, weighting, vci)
        by_layer = {}
        for layer in (*captured.layers, None):
            name = found.name if layer is None else layer
            with about_head(model, head, len(found.weight)), about(f"layer {name!r}"):
                by_layer[name] = measured(layer)
    processes.merged(lambda: tally).warn(stacklevel=3)
    return by_layer


def _measured(
    captured: Captured,
    processes: Processes,
    choose: "partial[ClassMeans]",
    weighting: str,
    vci: bool | None,
    layer: str | None,
) -> Measurement:
    """Measures a layer, or the head's input, of the classes that `choose` leaves, in all processes."""
    found, _ = head_of(captured)
    size = len(found.weight)
    second: dict[str, Any] = {"weighting": weighting, "vci": vci, "nearest_means": True}
    classifier = classifier_of(found) if layer is None else None
    projections = two_sweeps(processes, partial(fold_into, captured, layer), size, choose, classifier, **second)
    statistics = projections.statistics()
    if layer is None:
        statistics = _with_weight(statistics, found.weight, statistics.span)
    elif (weighted := captured.weighted.get(layer)) is not None and (weight := weighted.read()) is not None:
        span = None
        if (inputs := weighted.inputs) is not None:
            with captured.names[layer].naming():
                means = choose(processes.merged(lambda: _means_of(inputs, size, captured.precision)))
            span = center(means, weighting).span
        statistics = _with_weight(statistics, weight, span)
    return Measurement(statistics, projections.means)


def _means_of(store: FeatureStore, num_classes: int, precision: float) -> ClassMeans:
    means = ClassMeans(num_classes)
    means.update(store.features, store.labels)
    means.stored.at_least(precision)
    return means


def _with_weight(statistics: Statistics, weight: Tensor, input_span: Span | None) -> Statistics:
    """Adds a weight, as many of its leading directions as there are classes, and the span of its input's means."""
    leading = leading_directions(weight.cpu(), statistics.num_classes, torch.finfo(weight.dtype).eps)
    return replace(statistics, layer_weight=leading, input_span=input_span)


@checks_arguments
def collapse_depth(layers: Mapping[str, Measurement], at_most: float = 0.0) -> str | None:
    """Returns the first layer from which on the nearest class mean is wrong for at most a share of the samples.

    Galanti et al. (2022) call the number of layers up to there the effective depth.

    Args:
        layers: the measurements of layers in their order, as `measure_layers` returns them for the training data.
        at_most: the share of samples, `nearest_mean_error`, that counts as collapsed.

    Returns:
        The name of the layer; None if the last one is not collapsed.

    >>> import neurocollapse as nc
    >>> network = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> nc.collapse_depth(nc.measure_layers(network, [(torch.eye(2), torch.arange(2))]))
    '0'
    """
    if not 0 <= at_most < 1:
        raise InputError(f"at_most must be a share of the samples, from 0 to below 1, got {at_most}")
    found = None
    for name in reversed(list(layers)):
        if layers[name]["nearest_mean_error"] > at_most:
            break
        found = name
    return found
