"""Measures what the head of a model sees on its data."""

import itertools
import math
import numbers
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, Unpack

from torch import Tensor, nn

from .._errors import InputError, InputTypeError, NeurocollapseError, checks_arguments
from .._files import check_replaceable, in_one_line, path_of
from ..datasets import Split
from ..metrics import Measurement
from ..networks import Head, candidates_for, layer_weights, unwrap
from ..statistics import (
    LEAVE_OUT,
    Classifier,
    ClassMeans,
    ClassMoments,
    Objective,
    Projections,
    check_weighting,
    empty_classes,
)
from .capture.decisions import Tally
from .capture.forward import Captured, CaptureOptions, capture
from .capture.loaders import Unlabelled, as_loader
from .capture.names import about
from .capture.store import FeatureStore
from .capture.subset import stratified_subset
from .feature_files import SAVED_MARK, write_features
from .features import check_choice, chosen_of, is_cheap
from .process_group import Processes

STRATEGIES = ("keep", "stream", "twice")

#: A sum that gathers a sweep, and a function that adds this process's samples to it.
G = TypeVar("G", ClassMeans, Projections)
Feed = Callable[[Any], Any]


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
            the first so many samples, or positions, of each class; several processes share them evenly.

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
    ood_mean = None if ood is None else _mean_of_others(read, processes, ood, options.get("label_key"))
    if max_per_class is not None:
        read = partial(read, max_per_class=processes.share_of(max_per_class))
    choose = partial(chosen_of, absent=absent, min_per_class=min_per_class)
    if strategy == "stream":
        moments = processes.merged(lambda: None if part is None else _moments(read, part, weighting))
        processes.merged(lambda: tally).warn(stacklevel=3)
        chosen = choose(moments.means)
        return Measurement(moments.statistics(objective, ood_mean, means=chosen), chosen)
    with ExitStack() as stack:
        if strategy == "twice":
            own = processes.each(lambda: None if part is None else _classifier_of_first_batch(read, part))
            feed: Feed = partial(_run_into, read, part)
        else:
            captured = processes.each(lambda: None if part is None else stack.enter_context(read(part)))
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
    processes.each(lambda: None if part is None else _classifier_of_first_batch(read, part))
    if ood is not None:
        others = processes.share(ood)
        inputs = None if others is None else Unlabelled(others, label_key)
        read = partial(read, label_key=None)
        first = _about_others()(partial(_classifier_of_first_batch, read))
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


def two_sweeps(
    processes: Processes,
    feed: Feed,
    num_classes: int,
    choose: "partial[ClassMeans]",
    classifier: Classifier | None = None,
    *,
    means: ClassMeans | None = None,
    weighting: str = "classes",
    vci: bool | None = None,
    nearest_means: bool = False,
) -> Projections:
    """Makes both sweeps over the samples that `feed` adds, in all processes.

    The second sweep uses the merged means of all processes, or the given ones, of the classes that `choose` leaves.
    """
    held_out = means is not None
    if means is None:
        means = choose(_checked(processes.merged(lambda: feed(ClassMeans(num_classes))), choose.keywords))
    elif choose.keywords != {"absent": "error", "min_per_class": 1}:
        counted = processes.merged(lambda: feed(ClassMeans(num_classes)))
        means = choose(means, held_out=counted.counts)
    covariance = is_cheap(int(means.counts.sum()), means.sums.shape[1]) if vci is None else vci
    second = {"covariance": covariance, "weighting": weighting, "held_out": held_out, "nearest_means": nearest_means}
    return processes.projected(lambda: feed(Projections(means, classifier, **second)))  # type: ignore[arg-type]


def _checked(means: ClassMeans, options: dict[str, Any]) -> ClassMeans:
    """Returns the means, unless the labels are those of the first classes alone, as of a backbone without a head."""
    there = int(means.counts.count_nonzero())
    if options["absent"] == "error" and there < means.num_classes and means.counts[:there].all():
        raise InputError(
            f"{empty_classes(means.counts)}: the model's head has {means.num_classes} outputs, and the labels are 0 to "
            f"{there - 1}; if the model is a backbone without a head, measure what it returns with measure(features, "
            f"labels), else pass more data, or {LEAVE_OUT}"
        )
    return means


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


def about_head(model: nn.Module, head: str | nn.Module | None, outputs: int) -> AbstractContextManager[None]:
    """Adds the head that the caller chose to a `ValueError`, since it decides the number of classes."""
    if head is None:
        return nullcontext()
    others = ", ".join(candidates_for(model, None))
    return about(f"the head {head!r} has {outputs} outputs; pass head= one of {others}, or mend this")


def head_of(captured: Captured) -> tuple[Head, FeatureStore]:
    if captured.head is None:
        raise InputTypeError("head must be the name of the classifier, or None, which finds it; got False")
    assert captured.features is not None
    return captured.head, captured.features


def classifier_of(head: Head) -> Classifier:
    return Classifier(head.weight.cpu(), None if head.bias is None else head.bias.cpu())


def fold_into(captured: Captured | None, layer: str | None, gathered: G) -> G:
    """Adds the features of a layer, or the head's, that this process kept, if it had samples, to `gathered`."""
    if captured is not None:
        store = head_of(captured)[1] if layer is None else captured.layers[layer]
        with captured.names[layer].naming():
            gathered.update(store.features, store.labels)
        _note_precision(gathered, captured)
    return gathered


def _note_precision(gathered: ClassMeans | Projections, captured: Captured) -> None:
    """Has the tolerance of the means' rank follow the type that the model computed in, whatever it returns."""
    if isinstance(gathered, ClassMeans):
        gathered.stored.at_least(captured.precision)


def _run_into(read: Callable[..., Captured], loader: Iterable[Any] | None, gathered: G) -> G:
    """Runs the model and adds the features that its head sees to `gathered`. The second sweep counts decisions."""
    if loader is not None:
        read = read if isinstance(gathered, Projections) else partial(read, tally=Tally())
        captured = read(loader, sink=lambda features, labels, _: gathered.update(features.cpu(), labels.cpu()))
        _note_precision(gathered, captured)
    return gathered


def _classifier_of_first_batch(read: Callable[..., Captured], loader: Iterable[Any]) -> Classifier:
    def first() -> Iterator[Any]:
        yield from itertools.islice(loader, 1)  # not before `capture` asks, which guards the random generator

    with read(first(), tally=Tally()) as captured:
        return classifier_of(head_of(captured)[0])


def _moments(read: Callable[..., Captured], loader: Iterable[Any], weighting: str) -> ClassMoments:
    moments: list[ClassMoments] = []  # empty before the first batch, which shows the head

    def fold(features: Tensor, labels: Tensor, head: Head) -> None:
        if not moments:
            moments.append(ClassMoments(len(head.weight), classifier_of(head), weighting=weighting))
        moments[0].update(features.cpu(), labels.cpu())

    captured = read(loader, sink=fold)
    _note_precision(moments[0].means, captured)
    return moments[0]


def _mean_of_others(
    read: Callable[..., Captured], processes: Processes, loader: Iterable[Any] | Split, label_key: str | int | None
) -> Tensor:
    """Returns the mean feature of samples that belong to no class."""

    @_about_others()
    def gather() -> ClassMeans | None:
        part = processes.share(as_loader(loader))
        if part is None:
            return None
        means = ClassMeans(2)  # all in the first class
        inputs = Unlabelled(part, label_key)
        read(inputs, label_key=None, tally=Tally(), sink=lambda h, y, _: means.update(h.cpu(), y.cpu()))
        return means

    return processes.merged(gather).overall_mean


@contextmanager
def _about_others() -> Iterator[None]:
    """Says of an error that it is about the samples of no class, also where the model does not take them."""
    try:
        with about("ood"):
            yield
    except NeurocollapseError:
        raise
    except (RuntimeError, TypeError) as error:
        remedy = "pass a loader of inputs like those of the data"
        raise InputError(f"ood: the model does not take these inputs ({in_one_line(error)}); {remedy}") from error
