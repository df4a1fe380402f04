"""Batches of features and labels: what they must be, and the blocks in which they are read."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from .values import Classifier

BLOCK_ROWS = 4096

#: Above this many features Σ_W as a whole (p × p, float64) is not kept, and `nc1_vci` is absent.
FULL_COVARIANCE_LIMIT = 4096


def check_shapes(features: Tensor, labels: Tensor) -> None:
    if features.ndim != 2 or labels.ndim != 1 or len(features) != len(labels):
        raise ValueError(
            f"features must be (samples, features) and labels (samples,) of the same length, "
            f"got {tuple(features.shape)} and {tuple(labels.shape)}"
        )


def check_batch(features: Tensor, labels: Tensor, num_classes: int, num_features: int | None, seen: int) -> None:
    check_shapes(features, labels)
    if not features.is_floating_point():
        raise ValueError(f"features must be floating point, got {features.dtype}; cast them first")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be integers, got {labels.dtype}; cast them first")
    if num_features is not None and features.shape[1] != num_features:
        raise ValueError(f"earlier batches had {num_features} features, this one has {features.shape[1]}")
    labels = labels.long()  # before comparing: in eight bits 1000 classes would be 232
    wrong = ((labels < 0) | (labels >= num_classes)).nonzero()
    if len(wrong):
        index = int(wrong[0])
        raise ValueError(
            f"label {int(labels[index])} of sample {seen + index} is out of range: "
            f"with {num_classes} classes labels go from 0 to {num_classes - 1}"
        )


def check_classifier(classifier: Classifier | None, num_classes: int, num_features: int) -> None:
    if classifier is not None and classifier.weight.shape != (num_classes, num_features):
        raise ValueError(
            f"weight must be ({num_classes}, {num_features}) for {num_classes} classes and {num_features} features, "
            f"got {tuple(classifier.weight.shape)}"
        )


def check_same_classifier(first: Classifier | None, second: Classifier | None) -> None:
    def same(a: Tensor | None, b: Tensor | None) -> bool:
        return a is b if a is None or b is None else torch.equal(a, b)

    if first is not second and (
        first is None or second is None or not (same(first.weight, second.weight) and same(first.bias, second.bias))
    ):
        raise ValueError("cannot merge what was gathered with different classifiers; give both the same Classifier")


def class_sums(values: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    sums = values.new_zeros(num_classes, *values.shape[1:])
    return sums.index_add_(0, labels, values)


def blocks(
    features: Float[Tensor, "samples features"], labels: Integer[Tensor, " samples"], seen: int
) -> Iterator[tuple[Float[Tensor, "block features"], Int[Tensor, " block"]]]:
    """The batch in float64, block by block; `ValueError` names the first sample, after `seen` before, not finite."""
    for start in range(0, len(features), BLOCK_ROWS):
        block = features[start : start + BLOCK_ROWS].detach().double()
        _check_finite(block, seen + start)
        yield block, labels[start : start + BLOCK_ROWS].long()


def _check_finite(features: Tensor, seen: int) -> None:
    finite = features.isfinite()
    if not finite.all():
        sample, feature = (int(i) for i in (~finite).nonzero()[0])
        value = features[sample, feature].item()
        raise ValueError(f"feature {feature} of sample {seen + sample} is {value}; every feature must be finite")
