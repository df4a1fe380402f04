"""Measures the features that a classifier sees."""

import warnings
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from .._errors import InputError, checks_arguments
from ..metrics import Measurement
from ..networks import TWO_ROWS
from ..statistics import (
    FULL_COVARIANCE_LIMIT,
    Classifier,
    ClassMeans,
    Objective,
    Projections,
    Statistics,
    check_present,
    check_scale,
    check_shapes,
    hint_of,
    int64_labels,
    mean_of,
)
from .capture.names import about
from .capture.subset import Quota
from .streamed import StreamedFeatures

#: How to do without the classes that have no samples, where `absent` is an argument.
OR_LEAVE_OUT = ", or measure without such classes, absent='leave_out'"
#: By default `nc1_vci` is measured up to this many multiplications: a second of one core, which is not missed, even
#: where all other keys take a tenth of it.
_CHEAP_COVARIANCE = 10**10


@checks_arguments
def measure(
    features: "Tensor | ArrayLike | StreamedFeatures",
    labels: "Tensor | ArrayLike",
    weight: "Tensor | ArrayLike | None" = None,
    bias: "Tensor | ArrayLike | None" = None,
    *,
    num_classes: int | None = None,
    means: ClassMeans | None = None,
    ood: "Tensor | ArrayLike | None" = None,
    weighting: str = "classes",
    vci: bool | None = None,
    absent: Literal["error", "leave_out"] = "error",
    min_per_class: int = 1,
    max_per_class: int | None = None,
) -> Measurement:
    """Computes every neural-collapse metric of the features that a classifier sees, in two sweeps over them.

    The features are read in place, block by block: nothing of their size is copied. Class means are summed in float64.
    Everything else is a sum over h − μ_c, for which float32 is exact enough if the features are float32: its
    projections on the at most min(p, C−1) directions of the centred means take O(N p C) operations, never more than the
    O(N p²) of Σ_W as a whole. Only `nc1_vci` needs all of Σ_W. By default it is measured if N p k + 10 k³ is at most
    10¹⁰, about a second of one core, where k = min(N, p), and p at most 4096; all products are then in float64.

    Args:
        features: (samples, features), any floating type; the classifier's input. The tolerance of the rank follows
            their type, or the narrower one to which all values were rounded, as when float32 was stored as float64.
            `neurocollapse.measuring.read_features` reads them from files, block by block where there are many.
        labels: (samples,), integers from 0 to C−1.
        weight: (classes, features), the weight of the classifier. Without it the keys that need it are absent.
        bias: (classes,), the bias of the classifier.
        num_classes: C; by default the number of rows of `weight`, or the largest label plus one.
        means: class means of other samples, such as `Measurement.means` of the training set; the metrics then compare
            these samples with those means. By default the samples' own.
        ood: (others, features), features of samples that belong to no class, for `nc5`.
        weighting: how μ_G and Σ_B weigh the classes: "classes", all alike, or "samples", by their number of samples.
        vci: whether to measure `nc1_vci`, whatever it costs.
        absent: "leave_out" measures without the classes that have fewer than `min_per_class` samples, such as most of
            the vocabulary of a language model; with "error" they are an error. The classifier still decides among all
            its rows, and outputs are those of all; what is said of pairs and of W is said of the classes measured.
        min_per_class: how many samples a class has at least.
        max_per_class: measure only the first so many samples of each class.

    Returns:
        A `Measurement`: a mapping from the keys of `METRICS` to floats.

    Raises:
        ValueError: there is a class without samples, fewer than two classes, a label out of range, a NaN or infinity,
            or lengths or widths disagree; the message names the class, the sample or the shape.

    >>> import neurocollapse as nc
    >>> etf = nc.simplex_etf(4)
    >>> m = nc.measure(etf.repeat(5, 1), torch.arange(4).repeat(5), weight=etf)
    >>> print(f"{m['nc1']:.1f} {m['nc3']:.1f} {m['nc4']:.1f}")
    0.0 0.0 0.0
    """
    others = None if ood is None else _as_others(ood)
    with about("ood"):
        ood_mean = None if others is None else mean_of(others)
    options = {"num_classes": num_classes, "means": means, "ood_mean": ood_mean, "weighting": weighting, "vci": vci}
    options |= {"absent": absent, "min_per_class": min_per_class, "max_per_class": max_per_class}
    return Measurement(*gather(features, labels, weight, bias, **options), held_out=means is not None)  # type: ignore[arg-type]


def gather(
    features: Tensor | ArrayLike | StreamedFeatures,
    labels: Tensor | ArrayLike,
    weight: Tensor | ArrayLike | None = None,
    bias: Tensor | ArrayLike | None = None,
    *,
    num_classes: int | None = None,
    means: ClassMeans | None = None,
    ood_mean: Tensor | None = None,
    weighting: str = "classes",
    vci: bool | None = None,
    objective: Objective | None = None,
    precision: float = 0.0,
    nearest_means: bool = False,
    absent: str | None = None,
    min_per_class: int = 1,
    max_per_class: int | None = None,
    outputs: bool = True,
) -> tuple[Statistics, ClassMeans]:
    """Returns the `Statistics` behind `measure` and their class means; arguments and errors are those of `measure`.

    `precision` is ε of the type that the features were computed in, if it is coarser than that of the features. With
    `nearest_means` there is `nearest_mean_error` too. Without `outputs` the classifier is checked, and decides nothing.
    `absent` is None where the caller has no such option.
    """
    labels = _as_labels(labels)
    features = features if isinstance(features, StreamedFeatures) else in_one_block(features, labels)
    if 0 in features.shape:
        raise InputError(f"there is nothing to measure: features have shape {features.shape}")
    check_choice(absent or "error", min_per_class, max_per_class)
    labels = labels.to(features.device)
    classifier = _as_classifier(weight, bias, features)
    num_classes = means.num_labels if means is not None else num_classes
    num_classes = _number_of_classes(labels, classifier, num_classes, absent)
    if max_per_class is not None and labels.max() < num_classes:  # a label out of range is an error below
        chosen = Quota(max_per_class)(labels).to(features.device)
        features, labels = features.chosen(chosen), labels[chosen]
    held_out = means is not None
    if means is None:
        means = means_of(features, labels, num_classes, precision=precision, absent=absent, min_per_class=min_per_class)
    else:
        counts = torch.bincount(labels[labels < num_classes], minlength=num_classes)  # the others are an error below
        means = chosen_of(means, absent, min_per_class, counts)
    covariance = is_cheap(*features.shape) if vci is None else vci
    second = {"covariance": covariance, "weighting": weighting, "nearest_means": nearest_means, "held_out": held_out}
    projections = Projections(means, classifier if outputs else None, **second)  # type: ignore[arg-type]
    features.sweep(labels, projections.update)
    if absent is not None:
        check_present(projections.counts, means.classes, held_out=True, otherwise=OR_LEAVE_OUT)
    statistics = projections.statistics(objective, None if ood_mean is None else ood_mean.to(features.device))
    return replace(statistics, classifier=classifier), means


def in_one_block(values: Tensor | ArrayLike, labels: Tensor) -> StreamedFeatures:
    """Returns features that are in memory. Raises `ValueError` where they and the labels do not fit together."""
    features = as_tensor("features", values)
    check_shapes(features, labels)
    return StreamedFeatures(tuple(features.shape), lambda: [features], features.device)


def means_of(
    features: StreamedFeatures,
    labels: Tensor,
    num_classes: int,
    *,
    precision: float,
    absent: str | None,
    min_per_class: int,
) -> ClassMeans:
    """Returns the means of the classes that are measured; arguments and errors are those of `gather`."""
    present = labels[labels < num_classes].unique() if absent == "leave_out" else None
    means = ClassMeans(num_classes, None if present is None or len(present) == num_classes else present)
    features.sweep(labels, means.update)
    means.stored.at_least(precision)
    return chosen_of(means, absent, min_per_class)


def check_choice(absent: str, min_per_class: int, max_per_class: int | None) -> None:
    """Raises `ValueError` for what says in no way which classes and samples are measured."""
    if absent not in ("error", "leave_out"):
        raise InputError(f"absent must be 'error' or 'leave_out', got {absent!r}")
    for name, value in (("min_per_class", min_per_class), ("max_per_class", max_per_class)):
        if value is not None and (not _is_integer(value) or value < 1):
            raise InputError(f"{name} must be an integer of at least 1, got {value!r}")
    if max_per_class is not None and max_per_class < min_per_class:
        raise InputError(f"max_per_class is {max_per_class}, and min_per_class {min_per_class}, so no class is left")


def _is_integer(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def chosen_of(means: ClassMeans, absent: str | None, min_per_class: int, held_out: Tensor | None = None) -> ClassMeans:
    """Returns the means of the classes that are measured; of each label there are `held_out` samples, if given.

    Raises `ValueError` if a class has too few samples and is not to be left out.
    """
    counts = means.counts
    if held_out is not None:
        counts = held_out if means.classes is None else held_out[means.classes]
    if absent == "leave_out":
        return means.without(min_per_class, counts)
    few = (counts < min_per_class).nonzero().flatten()
    if min_per_class > 1 and len(few):
        label = few[0] if means.classes is None else means.classes[few[0]]
        raise InputError(
            f"{len(few)} classes have fewer than {min_per_class} samples, as class {int(label)} with "
            f"{int(counts[few[0]])}; pass more data{OR_LEAVE_OUT}"
        )
    if absent is not None and held_out is None:
        check_present(counts, means.classes, otherwise=OR_LEAVE_OUT)
    return means


def is_cheap(num_samples: int, num_features: int) -> bool:
    """Whether Σ_W as a whole is kept by default: N p k for it and about 10 k³ for eigenvalues, k = min(N, p)."""
    size = min(num_samples, num_features)
    operations = num_samples * num_features * size + 10 * size**3
    return num_features <= FULL_COVARIANCE_LIMIT and operations <= _CHEAP_COVARIANCE


def _number_of_classes(labels: Tensor, classifier: Classifier | None, given: int | None, absent: str | None) -> int:
    if given is not None and not _is_integer(given):
        raise InputError(f"num_classes must be an integer, got {given!r}")
    if labels.min() < 0:
        raise InputError(
            f"label {int(labels.min())} of sample {int(labels.argmin())} is out of range: labels start at 0"
            f"{hint_of(int(labels.min()), labels)}"
        )
    if given is None and classifier is None and labels.max() == 255 and not (labels == 254).any():
        raise InputError(f"label 255 of sample {int(labels.argmax())} has no class 254 below it{hint_of(255, labels)}")
    if given is None:
        given = int(labels.max()) + 1 if classifier is None else len(classifier.weight)
    elif classifier is not None and len(classifier.weight) != given:
        raise InputError(f"num_classes is {given}, but weight has {len(classifier.weight)} rows")
    # before memory is allocated: one stray label may mean billions of classes
    if given > len(labels) and absent != "leave_out":
        present = set(labels.tolist())
        empty = next(c for c in range(given) if c not in present)
        raise InputError(
            f"class {empty} has no samples, so its mean is undefined "
            f"({len(labels)} samples for {given} classes); pass more data{'' if absent is None else OR_LEAVE_OUT}"
        )
    return given


def as_tensor(name: str, values: Tensor | ArrayLike) -> Tensor:
    """Returns the values as a dense tensor of real numbers, without copying where possible. Raises `ValueError`."""
    if isinstance(values, Tensor):
        if values.is_complex():
            raise InputError(f"{name} must be real numbers, got {values.dtype}")
        if values.layout != torch.strided or values.is_meta or values.is_nested or values.is_quantized:
            kind = "a nested tensor" if values.is_nested else values.dtype if values.is_quantized else values.layout
            raise InputError(f"{name} must be a dense tensor with data, got {kind} on {values.device}")
        return values.detach()
    if np.ma.is_masked(values):
        raise InputError(f"{name} is a masked array, whose masked entries are no numbers; leave out those samples")
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise InputError(f"{name} must be numbers, got an array of {array.dtype}")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    # torch reads neither foreign byte order nor negative strides
    native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    with warnings.catch_warnings():  # about read-only memory, such as a mapped file: nothing here writes to it
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(native)


def _as_labels(values: Tensor | ArrayLike) -> Tensor:
    labels = as_tensor("labels", values)
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise InputError(f"labels must be integers, got {labels.dtype}; cast them first")
    return int64_labels(labels)


def _as_others(values: Tensor | ArrayLike) -> Tensor:
    others = as_tensor("ood", values)
    if others.ndim != 2 or not others.shape[1]:
        raise InputError(f"ood must be (others, features), with features; got {tuple(others.shape)}")
    if not others.is_floating_point():
        raise InputError(f"ood must be floating point, got {others.dtype}; cast it first")
    return others


def _as_classifier(weight: object, bias: object, features: StreamedFeatures) -> Classifier | None:
    if weight is None:
        if bias is not None:
            raise InputError("bias was given without weight; give both, or neither")
        return None
    W = as_tensor("weight", weight).to(features.device, torch.float64)  # type: ignore[arg-type]
    if W.ndim != 2 or W.shape[1] != features.shape[1] or not len(W):
        raise InputError(
            f"weight must be (classes, features) with {features.shape[1]} features, as the features have; "
            f"got {tuple(W.shape)}"
        )
    if len(W) == 1:
        raise InputError(f"weight has one row, and there must be one for each class; {TWO_ROWS}")
    b = None
    if bias is not None:
        b = as_tensor("bias", bias).to(features.device, torch.float64)  # type: ignore[arg-type]
        if b.shape != W.shape[:1]:
            raise InputError(f"bias must be ({len(W)},), one number per row of weight; got {tuple(b.shape)}")
    classifier = Classifier(W, b)  # raises if an entry is not finite
    check_scale("entries of weight", W.abs().max().item())
    if b is not None:
        check_scale("entries of bias", b.abs().max().item())
    return classifier
