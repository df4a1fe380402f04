"""Checks a batch of features and labels, and reads it in blocks."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from .._errors import InputError, SampleError
from .values import Classifier

#: Numbers in a block, by whether it is on a GPU: as many as a CPU's cache holds, or as keep a GPU busy.
_BLOCK_ELEMENTS = {False: 2**19, True: 2**24}
_LEAST_ROWS = 16
_MANY_CLASSES, _MANY_ROWS = 64, 1024

#: Between these scales of the data, squares of float32 residuals, many orders smaller, neither overflow nor vanish.
FLOAT32_SCALES = (2.0**-20, 2.0**40)

#: Above this many features Σ_W as a whole (p × p, float64) is not kept unless asked for.
FULL_COVARIANCE_LIMIT = 4096


def check_shapes(features: Tensor, labels: Tensor) -> None:
    """Raises `ValueError` unless features are (samples, features) and labels (samples,)."""
    if features.ndim != 2 or labels.ndim != 1 or len(features) != len(labels):
        raise InputError(
            f"features must be (samples, features) and labels (samples,) of the same length, "
            f"got {tuple(features.shape)} and {tuple(labels.shape)}"
        )


def hint_of(label: int, labels: Tensor, num_classes: int | None = None) -> str:
    """Says, to add to a message about a label out of range, what it may mean beside the others; or nothing."""
    if label in (-1, -100, 255):
        return (
            f"; if {label} marks what has no label, leave it out (labels != {label}, or in models ignore_index={label})"
        )
    if label == num_classes and not (labels == 0).any():
        return f"; if labels count from 1, {FROM_ZERO}"
    return ""


#: What to do with labels that count from 1.
FROM_ZERO = "pass labels - 1"


def empty_classes(counts: Tensor, labels: Tensor | None = None, place: str = "", what: str = "mean") -> str:
    """Says which classes have no samples, so that something of theirs is undefined, and what the counts are."""
    empty = (counts == 0).nonzero().flatten()
    names = (empty if labels is None else labels[empty]).tolist()
    shown = ", ".join(map(str, names[:5])) + (", …" if len(names) > 5 else "")
    given = str(counts.tolist()) if len(counts) <= 20 else f"{len(names)} of {len(counts)} are zero"
    start = f"; if labels count from 1, {FROM_ZERO}" if names == [0] else ""
    if len(names) == 1:
        return f"class {shown} has no samples{place}, so its {what} is undefined (counts: {given}){start}"
    return f"classes {shown} have no samples{place}, so their {what}s are undefined (counts: {given}){start}"


def check_present(counts: Tensor, labels: Tensor | None = None, *, held_out: bool = False, otherwise: str = "") -> None:
    """Raises `ValueError` if a class has no samples; `otherwise` says how the caller does without, if it can."""
    if counts.all():
        return
    if held_out:
        fault = empty_classes(counts, labels, " in the second sweep, held out against the means", "spread")
        raise InputError(f"{fault}; pass samples of every class{otherwise}")
    raise InputError(f"{empty_classes(counts, labels)}; pass more data{otherwise}")


def check_batch(features: Tensor, labels: Tensor, num_classes: int, num_features: int | None, seen: int) -> None:
    """Raises `ValueError` for a batch with the wrong shapes or types, or with a label out of range.

    `seen` is the number of samples in earlier batches, so that the message can name the sample.
    """
    check_shapes(features, labels)
    if not features.is_floating_point():
        raise InputError(f"features must be floating point, got {features.dtype}; cast them first")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InputError(f"labels must be integers, got {labels.dtype}; cast them first")
    if num_features is not None and features.shape[1] != num_features:
        raise InputError(f"earlier batches had {num_features} features, this one has {features.shape[1]}")
    labels = int64_labels(labels, seen)  # before comparing: in eight bits 1000 classes would be 232
    wrong = ((labels < 0) | (labels >= num_classes)).nonzero()
    if len(wrong):
        index = int(wrong[0])
        raise SampleError(
            f"label {int(labels[index])}",
            seen + index,
            f"is out of range: with {num_classes} classes labels go from 0 to {num_classes - 1}"
            + hint_of(int(labels[index]), labels, num_classes),
        )


def int64_labels(labels: Tensor, seen: int = 0) -> Tensor:
    """Returns integers as int64. Raises `ValueError` for one of uint64 that would become negative; `seen` as above."""
    converted = labels.long()
    if labels.dtype == torch.uint64 and (wrong := (converted < 0).nonzero()).numel():
        index = int(wrong[0])
        raise SampleError(
            f"label {int(converted[index]) % 2**64}", seen + index, "is out of range: labels are below 2^63"
        )
    return converted


def check_classifier(classifier: Classifier | None, num_classes: int, num_features: int) -> None:
    """Raises `ValueError` unless the classifier's weight is (classes, features)."""
    if classifier is not None and classifier.weight.shape != (num_classes, num_features):
        raise InputError(
            f"weight must be ({num_classes}, {num_features}) for {num_classes} classes and {num_features} features, "
            f"got {tuple(classifier.weight.shape)}"
        )


def check_same_classifier(first: Classifier | None, second: Classifier | None) -> None:
    """Raises `ValueError` unless both are None or have equal weights and biases."""

    def same(a: Tensor | None, b: Tensor | None) -> bool:
        return a is b if a is None or b is None else torch.equal(a, b)

    if first is not second and (
        first is None or second is None or not (same(first.weight, second.weight) and same(first.bias, second.bias))
    ):
        raise InputError("cannot merge what was gathered with different classifiers; give both the same Classifier")


#: Between these, float64 holds the square of a number and the square of its rounding, 1e-16 of it.
SQUARABLE = (1e-130, 1e140)


def check_scale(what: str, largest: float) -> None:
    """Raises `ValueError` if squares of numbers up to `largest` leave the range of float64."""
    low, high = SQUARABLE
    if largest and not low <= largest <= high:
        raise InputError(
            f"{what} reach {largest:.3g}, and squares of that are beyond float64; multiply them by a constant that "
            f"brings them between {low:g} and {high:g} (only nc2_norm_variance and what W makes of them depend on it)"
        )


def class_sums(values: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Sums the values of each class: (samples, ...) to (classes, ...)."""
    sums = values.new_zeros(num_classes, *values.shape[1:])
    return sums.index_add_(0, labels, values)


def rows_at_once(features: Tensor, num_classes: int) -> int:
    """The number of samples that fit a processor's cache, so that they may be copied to a wider type."""
    rows = max(_LEAST_ROWS, _BLOCK_ELEMENTS[features.device.type == "cuda"] // features.shape[1])
    if num_classes > _MANY_CLASSES:  # then every block reads the rows of all classes from memory, so take fewer blocks
        rows = max(rows, min(_MANY_ROWS, _BLOCK_ELEMENTS[True] // (features.shape[1] + 2 * num_classes)))
    return rows


def blocks(features: Tensor, labels: Tensor, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields the features and labels of so many samples at once."""
    for start in range(0, len(features), rows):
        yield features[start : start + rows].detach(), labels[start : start + rows].long()


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Computes products in the type of their factors, whatever autocast, TF32 or bfloat16 the caller trains with."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False), torch.no_grad():
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def check_finite(features: Tensor, seen: int) -> None:
    """Raises `ValueError` if a feature is not finite; it names the first such sample and says how many there are.

    `seen` is the number of samples in earlier batches.
    """
    finite = torch.cat([part.isfinite().all(dim=1) for part in features.split(_MANY_ROWS)])
    if not finite.all():
        sample = int((~finite).nonzero()[0])
        feature = int((~features[sample].isfinite()).nonzero()[0])
        raise SampleError(
            f"feature {feature}",
            seen + sample,
            f"is {features[sample, feature].item()}; "
            f"every feature must be finite ({int((~finite).sum())} of {len(features)} samples are not)",
        )
