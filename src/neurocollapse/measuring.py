"""Features in, measurement out."""

import warnings

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from .metrics import Measurement
from .statistics import Classifier, ClassMeans, Objective, Projections, Statistics, check_shapes


def measure(
    features: Tensor | ArrayLike,
    labels: Tensor | ArrayLike,
    weight: Tensor | ArrayLike | None = None,
    bias: Tensor | ArrayLike | None = None,
    *,
    num_classes: int | None = None,
) -> Measurement:
    """Every neural-collapse metric of the features that a classifier sees.

    Args:
        features: (samples, features), any floating type; the classifier's input.
        labels: (samples,), integers from 0 to C−1.
        weight: (classes, features), the classifier. Without it the keys that need it are absent.
        bias: (classes,), its bias.
        num_classes: C; by default the rows of `weight`, or the largest label plus one.

    Returns:
        A `Measurement`: mapping from the keys of `METRICS` to float.

    Raises:
        ValueError: a class without samples, fewer than two classes, a label out of range, a NaN or infinity, lengths
            or widths that disagree; the message names the class, the sample or the shape.

    >>> import neurocollapse as nc
    >>> etf = nc.simplex_etf(4)
    >>> m = nc.measure(etf.repeat(5, 1), torch.arange(4).repeat(5), weight=etf)
    >>> print(f"{m['nc1']:.1f} {m['nc3']:.1f} {m['nc4']:.1f}")
    0.0 0.0 0.0
    """
    return Measurement(gather(features, labels, weight, bias, num_classes=num_classes))


def gather(
    features: Tensor | ArrayLike,
    labels: Tensor | ArrayLike,
    weight: Tensor | ArrayLike | None = None,
    bias: Tensor | ArrayLike | None = None,
    *,
    num_classes: int | None = None,
    objective: Objective | None = None,
) -> Statistics:
    """The `Statistics` behind `measure`, from two sweeps over features in memory; same arguments and errors."""
    features, labels = _as_tensor("features", features), _as_labels(labels)
    check_shapes(features, labels)
    if not features.numel():
        raise ValueError(f"there is nothing to measure: features have shape {tuple(features.shape)}")
    labels = labels.to(features.device)
    classifier = _as_classifier(weight, bias, features)
    if num_classes is None:
        if labels.min() < 0:
            raise ValueError(
                f"label {int(labels.min())} of sample {int(labels.argmin())} is out of range: labels start at 0"
            )
        num_classes = int(labels.max()) + 1 if classifier is None else len(classifier.weight)
    elif classifier is not None and len(classifier.weight) != num_classes:
        raise ValueError(f"num_classes is {num_classes}, but weight has {len(classifier.weight)} rows")
    if num_classes > len(labels):  # before memory is asked for: one stray label may promise billions of classes
        present = set(labels.tolist())
        empty = next(c for c in range(num_classes) if c not in present)
        raise ValueError(
            f"class {empty} has no samples, so its mean is undefined "
            f"({len(labels)} samples for {num_classes} classes); pass more data, or number the classes without gaps"
        )
    means = ClassMeans(num_classes)
    means.update(features, labels)
    projections = Projections(means, classifier)
    projections.update(features, labels)
    return projections.statistics(objective)


def _as_tensor(name: str, values: Tensor | ArrayLike) -> Tensor:
    if isinstance(values, Tensor):
        if values.is_complex():
            raise ValueError(f"{name} must be real numbers, got {values.dtype}")
        return values.detach()
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} must be numbers, got an array of {array.dtype}")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    # torch reads neither foreign byte order nor negative strides
    native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    with warnings.catch_warnings():  # of memory that must not be written to, such as a mapped file: nothing here does
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(native)


def _as_labels(values: Tensor | ArrayLike) -> Tensor:
    labels = _as_tensor("labels", values)
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be integers, got {labels.dtype}; cast them first")
    return labels.long()


def _as_classifier(weight: object, bias: object, features: Tensor) -> Classifier | None:
    if weight is None:
        if bias is not None:
            raise ValueError("bias was given without weight; give both, or neither")
        return None
    W = _as_tensor("weight", weight).to(features.device, torch.float64)  # type: ignore[arg-type]
    if W.ndim != 2 or W.shape[1] != features.shape[1]:
        raise ValueError(
            f"weight must be (classes, features) with {features.shape[1]} features, as the features have; "
            f"got {tuple(W.shape)}"
        )
    b = None
    if bias is not None:
        b = _as_tensor("bias", bias).to(features.device, torch.float64)  # type: ignore[arg-type]
        if b.shape != W.shape[:1]:
            raise ValueError(f"bias must be ({len(W)},), one number per row of weight; got {tuple(b.shape)}")
    for name, values in (("weight", W), ("bias", b)):
        if values is not None and not values.isfinite().all():
            index = (~values.isfinite()).nonzero()[0].tolist()
            raise ValueError(f"{name}{index} is {values[tuple(index)].item()}; every entry must be finite")
    return Classifier(W, b)
