"""The two sweeps over what a model shows: over the features that were kept, or by running the model for each."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .._errors import InputError, InputTypeError, NeurocollapseError
from .._files import in_one_line
from ..datasets import Split
from ..networks import Head, candidates_for
from ..statistics import Classifier, ClassMeans, ClassMoments, Projections, check_present, empty_classes
from .capture.decisions import Tally
from .capture.forward import Captured
from .capture.loaders import Unlabelled, as_loader
from .capture.names import about
from .capture.store import FeatureStore
from .capture.subset import Quota
from .features import OR_LEAVE_OUT, is_cheap
from .process_group import Processes

#: A sum that gathers a sweep, and a function that adds this process's samples to it.
G = TypeVar("G", ClassMeans, Projections)
Feed = Callable[[Any], Any]


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
    projections = processes.projected(lambda: feed(Projections(means, classifier, **second)))  # type: ignore[arg-type]
    check_present(projections.counts, means.classes, held_out=True, otherwise=OR_LEAVE_OUT)
    return projections


def _checked(means: ClassMeans, options: dict[str, Any]) -> ClassMeans:
    """Returns the means, unless the labels are those of the first classes alone, as of a backbone without a head."""
    there = int(means.counts.count_nonzero())
    if options["absent"] == "error" and there < means.num_classes and means.counts[:there].all():
        raise InputError(
            f"{empty_classes(means.counts)}: the model's head has {means.num_classes} outputs, and the labels are 0 to "
            f"{there - 1}; if the model is a backbone without a head, measure what it returns with measure(features, "
            f"labels), else pass more data{OR_LEAVE_OUT}"
        )
    return means


def about_head(model: nn.Module, head: str | nn.Module | None, outputs: int) -> AbstractContextManager[None]:
    """Adds the head that the caller chose to a `ValueError`, since it decides the number of classes."""
    if head is None:
        return nullcontext()
    others = ", ".join(candidates_for(model, None))
    return about(f"the head {head!r} has {outputs} outputs; pass head= one of {others}, or mend this")


def head_of(captured: Captured) -> tuple[Head, FeatureStore]:
    """Returns the head and the features before it, both of which were captured."""
    if captured.head is None:
        raise InputTypeError("head must be the name of the classifier, or None, which finds it; got False")
    assert captured.features is not None
    return captured.head, captured.features


def keep_within(processes: Processes, captured: Captured | None, max_per_class: int | None) -> None:
    """Leaves, of what all processes have kept, the rows of each class that come first where one process reads all.

    Each has kept its own first ones. They take turns, as `Processes.share` deals out samples or the batches of a list.
    """
    if max_per_class is None or processes.size == 1:
        return
    kept = {} if captured is None else captured.stores()
    names = {} if captured is None else captured.names
    parts = processes.all(lambda: {key: (store.labels, names[key].turns()) for key, store in kept.items()})
    for key, store in kept.items():
        labels, turns = (torch.cat(each) for each in zip(*(part[key] for part in parts if key in part), strict=True))
        order = turns.argsort(stable=True)
        chosen = order[Quota(max_per_class)(labels[order])].sort().values
        start = sum(len(part[key][0]) for part in parts[: processes.rank] if key in part)
        own = chosen[(chosen >= start) & (chosen < start + store.num_samples)] - start
        store.leave(own)
        names[key].left = own


def replayed(captured: Captured, _: object, *, sink: Callable[[Tensor, Tensor, Head], object]) -> Captured:
    """Shows a sink what was captured, as `capture` would while it reads a loader."""
    head, store = head_of(captured)
    with captured.names[None].naming():
        sink(store.features, store.labels, head)
    return captured


def classifier_of(head: Head) -> Classifier:
    """Returns a head's weight and bias, on the CPU."""
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


def run_into(read: Callable[..., Captured], loader: Iterable[Any] | None, gathered: G) -> G:
    """Runs the model and adds the features that its head sees to `gathered`. The second sweep counts decisions."""
    if loader is not None:
        read = read if isinstance(gathered, Projections) else partial(read, tally=Tally())
        captured = read(loader, sink=lambda features, labels, _: gathered.update(features.cpu(), labels.cpu()))
        _note_precision(gathered, captured)
    return gathered


def classifier_of_first_batch(read: Callable[..., Captured], loader: Iterable[Any]) -> Classifier:
    """Returns the head that the first batch shows."""

    def first() -> Iterator[Any]:
        yield from itertools.islice(loader, 1)  # not before `capture` asks, which guards the random generator

    with read(first(), tally=Tally()) as captured:
        return classifier_of(head_of(captured)[0])


def moments_of(read: Callable[..., Captured], loader: Iterable[Any], weighting: str) -> ClassMoments:
    """Returns the moments of the features that one run of the model shows."""
    moments: list[ClassMoments] = []  # empty before the first batch, which shows the head

    def fold(features: Tensor, labels: Tensor, head: Head) -> None:
        if not moments:
            moments.append(ClassMoments(len(head.weight), classifier_of(head), weighting=weighting))
        moments[0].update(features.cpu(), labels.cpu())

    captured = read(loader, sink=fold)
    _note_precision(moments[0].means, captured)
    return moments[0]


def mean_of_others(
    read: Callable[..., Captured], processes: Processes, loader: Iterable[Any] | Split, label_key: str | int | None
) -> Tensor:
    """Returns the mean feature of samples that belong to no class."""

    @about_others()
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
def about_others() -> Iterator[None]:
    """Says of an error that it is about the samples of no class, also where the model does not take them."""
    try:
        with about("ood"):
            yield
    except NeurocollapseError:
        raise
    except (RuntimeError, TypeError) as error:
        remedy = "pass a loader of inputs like those of the data"
        raise InputError(f"ood: the model does not take these inputs ({in_one_line(error)}); {remedy}") from error
