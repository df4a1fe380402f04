"""Measures what the head of a model sees on its data."""

import math
import numbers
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Literal, Unpack

from torch import nn

from .._errors import InputError, InputTypeError, checks_arguments
from .._files import check_replaceable, path_of
from ..datasets import Split
from ..metrics import Measurement
from ..networks import layer_weights, unwrap
from ..statistics import (
    ClassMeans,
    Objective,
    check_weighting,
)
from .capture.decisions import Tally
from .capture.forward import CaptureOptions, capture
from .capture.loaders import Unlabelled, as_loader
from .capture.subset import stratified_subset
from .feature_files import SAVED_MARK, write_features
from .features import check_choice, chosen_of
from .process_group import Processes
from .sweeping import (
    Feed,
    about_head,
    about_others,
    classifier_of,
    classifier_of_first_batch,
    fold_into,
    head_of,
    keep_within,
    mean_of_others,
    moments_of,
    replayed,
    run_into,
    two_sweeps,
)

STRATEGIES = ("keep", "stream", "twice")


@checks_arguments
def measure_model(
    model: nn.Module,
    loader: Iterable[Any] | Split,
    *,
    head: str | nn.Module | None = None,
    strategy: Literal["keep", "stream", "twice"] = "keep",
    means: ClassMeans | None = None,
    ood: Iterable[Any] | Split | None = None,
    weighting: str = "classes",
    vci: bool | None = None,
    weight_decay: float | None = None,
    subset: int | None = None,
    save_features: Path | str | None = None,
    together: bool | None = None,
    absent: Literal["error", "leave_out"] = "error",
    min_per_class: int = 1,
    **options: Unpack[CaptureOptions],
) -> Measurement:
    """Computes every neural-collapse metric at the classifier head of a model, in one forward pass over a loader.

    In a process group all processes must call it, and all get the same measurement. The samples of a loader with an
    index, or of a list of batches, are split among the processes, every sample once. Any other loader is assumed to
    yield each process its own part, with a warning.

    Args:
        model: any classifier; it is left in the mode it was in. See `capture`.
        loader: yields (inputs, labels, ...) or mappings; or a split of a `Dataset`.
        head: the classifier head, a module or its name; by default the linear layer whose output is the model's.
        strategy: "keep" keeps the features, in memory or, beyond `memory_budget`, in a temporary file; "stream" sums
            them into moments, p × p numbers, if they cannot be kept, and then `nc4` is missing; "twice" runs the model
            twice, keeps nothing, and gives all that the two sweeps of `measure` give.
        means: class means of other data, such as `Measurement.means` of the training set: see `measure`.
        ood: a loader of samples that belong to no class, for `nc5`; labels in it are not read.
        weighting: "classes" or "samples": see `measure`.
        vci: whether to measure `nc1_vci`: see `measure`.
        weight_decay: λ of Eq. 1, for `loss` and `weight_norms`; all trainable parameters are assumed to decay.
        subset: measure only this many samples of every class, drawn without loading the others.
        save_features: a .safetensors file for the captured features, which `neurocollapse measure` reads.
        together: whether to measure with the other processes of the process group; by default if there is one.
        absent: "leave_out" measures without the classes that have no sample: see `measure`.
        min_per_class: how many samples a class has at least: see `measure`.
        options: the options of `neurocollapse.measuring.capture.capture`. `tokens`: the token of a sequence by which
            the model decides, "first", "last", "mean", "all" or a position. `spatial`: "flatten" maps, or take their
            "mean". `ignore_index`: the label of samples to leave out, −100. `label_key`: where batches have their
            labels. `device`; `autocast_dtype`; `eval_mode=False` leaves modules in training mode. `memory_budget`:
            bytes of features to hold in memory, 4 GiB; the rest goes to a temporary file in `folder`. `progress`:
            called after each batch with the number of batches done and the number in all. `max_per_class`: measure only
            the first so many samples, or positions, of each class; of several processes together, which take turns.

    Raises:
        ValueError: there is no head, or several; the loader has no labels; options do not go together; or `measure`
            would raise it.
        RuntimeError: another process failed.
        FeatureStoreError: the temporary file cannot be written.

    >>> import neurocollapse as nc
    >>> import torch
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> m = nc.measure_model(network, [(torch.randn(9, 2, 2), torch.arange(9) % 2)])
    >>> m.class_counts, m.num_features
    ((5, 4), 8)
    """
    processes = Processes(together)
    max_per_class = options.pop("max_per_class", None)
    check_choice(absent, min_per_class, max_per_class)
    _check_together(strategy, means, save_features, processes.size, min_per_class, max_per_class)
    loader = chosen_samples(loader, subset, options.get("label_key"))
    if strategy == "twice" and isinstance(loader, Iterator):
        raise InputError(
            f"strategy='twice' reads the data several times, and {type(loader).__name__} is empty once it was read; "
            f"pass a DataLoader or a list, or take strategy='keep'"
        )
    tally = Tally()
    read = partial(capture, model, head=head, tally=tally, **options)
    part = processes.share(loader)
    objective = None if weight_decay is None else objective_of(model, weight_decay)
    ood_mean = None if ood is None else mean_of_others(read, processes, ood, options.get("label_key"))
    read = partial(read, max_per_class=max_per_class)
    choose = partial(chosen_of, absent=absent, min_per_class=min_per_class)
    kept = strategy == "keep" or (max_per_class is not None and processes.size > 1)
    with ExitStack() as stack:
        captured = None
        if kept:
            captured = processes.each(lambda: None if part is None else stack.enter_context(read(part)))
            keep_within(processes, captured, max_per_class)
        if strategy == "stream":
            shown = read if captured is None else partial(replayed, captured)
            moments = processes.merged(lambda: None if part is None else moments_of(shown, part, weighting))
            processes.merged(lambda: tally).warn(stacklevel=3)
            chosen = choose(moments.means)
            return Measurement(moments.statistics(objective, ood_mean, means=chosen), chosen)
        if strategy == "twice":
            own = processes.each(lambda: None if part is None else classifier_of_first_batch(read, part))
            feed: Feed = partial(run_into, read, part)
        else:
            own = processes.each(lambda: None if captured is None else classifier_of(head_of(captured)[0]))
            feed = partial(fold_into, captured, None)
            if save_features is not None and captured is not None:
                found, store = head_of(captured)
                write_features(path_of(save_features), store.features, store.labels, found.weight, found.bias)
        classifier = next(known for known in processes.in_turn(own) if known is not None)
        with about_head(model, head, len(classifier.weight)):
            size = len(classifier.weight)
            projections = two_sweeps(
                processes, feed, size, choose, classifier, means=means, weighting=weighting, vci=vci
            )
    processes.merged(lambda: tally).warn(stacklevel=3)
    statistics = projections.statistics(objective, ood_mean)
    return Measurement(statistics, projections.means, held_out=projections.held_out)


def try_model(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    head: str | nn.Module | None = None,
    strategy: str = "keep",
    means: ClassMeans | None = None,
    ood: Iterable[Any] | None = None,
    weighting: str = "classes",
    vci: bool | None = None,
    weight_decay: float | None = None,
    subset: int | None = None,
    save_features: Path | str | None = None,
    together: bool | None = None,
    absent: str = "error",
    min_per_class: int = 1,
    **options: Unpack[CaptureOptions],
) -> None:
    """Raises what `measure_model` would raise for these arguments at the first batch; it measures nothing."""
    processes = Processes(together)
    max_per_class = options.pop("max_per_class", None)
    check_choice(absent, min_per_class, max_per_class)
    _check_together(strategy, means, save_features, processes.size, min_per_class, max_per_class)
    check_weighting(weighting)
    if weight_decay is not None:
        objective_of(model, weight_decay)
    label_key = options.get("label_key")
    options["progress"] = None
    read = partial(capture, model, head=head, **options)
    part = processes.share(chosen_samples(loader, subset, label_key))
    processes.each(lambda: None if part is None else classifier_of_first_batch(read, part))
    if ood is not None:
        others = processes.share(ood)
        inputs = None if others is None else Unlabelled(others, label_key)
        read = partial(read, label_key=None)
        first = about_others()(partial(classifier_of_first_batch, read))
        processes.each(lambda: None if inputs is None else first(inputs))


def _check_together(
    strategy: str,
    means: object,
    save_features: Path | str | None,
    size: int,
    min_per_class: int,
    max_per_class: int | None,
) -> None:
    """Raises an error for arguments of `measure_model` that do not go together, before anything is run."""
    if strategy not in STRATEGIES:
        raise InputError(f"strategy must be one of {', '.join(STRATEGIES)}, got {strategy!r}")
    if strategy == "stream" and means is not None:
        raise InputError("one pass centres on the means it finds, not on given ones; use strategy='keep' or 'twice'")
    if save_features is not None and (strategy != "keep" or size > 1):
        raise InputError("save_features needs all features in one process; use strategy='keep' and together=False")
    if save_features is not None and not path_of(save_features).parent.is_dir():
        raise InputError(f"save_features is {save_features}, and there is no such folder; make it first")
    if save_features is not None and Path(save_features).suffix != ".safetensors":
        raise InputError(f"save_features must end in .safetensors, got {save_features}")
    if save_features is not None:
        check_replaceable(path_of(save_features), SAVED_MARK)
    if strategy == "twice" and max_per_class is not None:
        raise InputError("max_per_class keeps the first samples, and two passes may differ in these; use 'keep'")
    if strategy == "stream" and min_per_class > 1:
        raise InputError("one pass cannot take back the samples of a class that has too few; use 'keep' or 'twice'")


def chosen_samples(loader: Iterable[Any] | Split, subset: int | None, label_key: str | int | None) -> Iterable[Any]:
    """Returns a loader of this many samples of every class, or of all."""
    loader = as_loader(loader)
    if subset is not None and subset < 1:
        raise InputError(f"subset must be at least 1, got {subset}")
    return loader if subset is None else stratified_subset(loader, subset, label_key=label_key)


def objective_of(model: nn.Module, weight_decay: float, free: Collection[str] = ()) -> Objective:
    """Returns the penalty of Eq. 1 for a model whose trainable parameters all decay alike, except those in `free`."""
    if isinstance(weight_decay, bool) or not isinstance(weight_decay, numbers.Real):
        raise InputTypeError(f"weight_decay must be a number, got {weight_decay!r}")
    if not 0 <= weight_decay < math.inf:
        raise InputError(f"weight_decay must be at least 0 and finite, got {weight_decay}")
    norms = {
        name: p.detach().double().square().sum().item()
        for name, p in unwrap(model).named_parameters()
        if p.requires_grad and name not in free
    }
    layers = tuple(norms.pop(name) for name in layer_weights(unwrap(model)))
    return Objective(weight_decay, layers, other_norms=math.fsum(norms.values()))
