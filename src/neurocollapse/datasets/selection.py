"""Selects the training samples of a source, and their labels."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .._errors import DatasetError
from .dataset import Samples, Source, rank_within_class

IMBALANCES = ("none", "step", "exponential")


@dataclass(frozen=True)
class Selection:
    """The arguments of `load_dataset` that select training samples and shuffle labels."""

    per_class: int | None = None
    imbalance: str = "none"
    imbalance_ratio: float = 10.0
    label_noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.per_class is not None and self.per_class < 1:
            raise DatasetError(f"per_class must be at least 1, got {self.per_class}")
        if self.imbalance not in IMBALANCES:
            raise DatasetError(f"imbalance must be {' or '.join(IMBALANCES)}, got {self.imbalance!r}")
        if not 1 <= self.imbalance_ratio < float("inf"):
            raise DatasetError(f"imbalance_ratio must be at least 1 and finite, got {self.imbalance_ratio}")
        if not 0 <= self.label_noise <= 1:
            raise DatasetError(f"label_noise must be a share from 0 to 1, got {self.label_noise}")


def select(source: Source, selection: Selection) -> Source:
    """Returns the source with the selected training samples and labels, and notes on what the theory does not assume.

    Raises `DatasetError` if a class is missing, or has fewer samples than requested.
    """
    _check_every_class_is_there(source)
    counts = _counts(source, selection)
    images, labels = source.train
    taken = rank_within_class(labels) < counts[labels]
    train = source.train if taken.all() else Samples(images[taken], labels[taken])
    notes = source.notes + _notes(train, source, selection)
    if selection.label_noise:
        train = _with_noise(train, selection)
        notes += (f"the labels of {selection.label_noise:.4g} of each class's training samples are shuffled",)
    return source._replace(train=train, notes=notes)


def _counts(source: Source, selection: Selection) -> NDArray[np.int64]:
    """Returns the number of samples to take of each class."""
    there = np.bincount(source.train.labels)
    if selection.per_class is not None and selection.per_class > there.min():
        raise DatasetError(
            f"{source.name}: class {there.argmin()} has {there.min()} training samples, fewer than "
            f"per_class={selection.per_class}; ask for at most {there.min()}"
        )
    classes, ratio = np.arange(source.num_classes), selection.imbalance_ratio
    match selection.imbalance:
        case "step":
            shares = np.where(classes < (source.num_classes + 1) // 2, 1.0, 1 / ratio)
        case "exponential":
            shares = ratio ** (-classes / (source.num_classes - 1))
        case _:
            return there if selection.per_class is None else np.full_like(there, selection.per_class)
    largest = there.min() if selection.per_class is None else selection.per_class
    return np.maximum(1, np.rint(largest * shares)).astype(np.int64)


def _with_noise(train: Samples, selection: Selection) -> Samples:
    """Returns the samples with the labels of some of them shuffled among one another."""
    generator = np.random.default_rng(selection.seed)
    order = generator.permutation(len(train.labels))
    ranks = np.empty_like(order)
    ranks[order] = rank_within_class(train.labels[order])  # each sample's rank in its class, in a random order
    wanted = np.rint(selection.label_noise * np.bincount(train.labels)).astype(np.int64)
    chosen = np.flatnonzero(ranks < wanted[train.labels])
    labels = train.labels.copy()
    labels[chosen] = labels[generator.permutation(chosen)]
    return Samples(train.images, labels)


def _check_every_class_is_there(source: Source) -> None:
    # Not bincount: a stray label of 10^12 would need terabytes.
    present = np.unique(source.train.labels)
    if source.num_classes < 2:
        raise DatasetError(f"{source.name}: all training labels are 0; classification needs at least two classes")
    if len(present) < source.num_classes:
        gaps = np.flatnonzero(present != np.arange(len(present)))
        missing = gaps[0] if len(gaps) else len(present)
        raise DatasetError(
            f"{source.name}: class {missing} has no training samples ({len(present)} of the {source.num_classes} "
            f"classes 0 to {source.num_classes - 1} have some); add some, or number the classes without gaps"
        )


def _notes(train: Samples, source: Source, selection: Selection) -> tuple[str, ...]:
    notes = []
    counts = np.bincount(train.labels)
    if counts.min() < counts.max():
        remedy = f"; per_class={counts.min()} takes a balanced subset" if selection.imbalance == "none" else ""
        notes.append(
            f"classes are not balanced (train counts {counts.min()} to {counts.max()}), and the theory is for balanced "
            f"classes{remedy}"
        )
    test = source.test
    if test is not None and (absent := np.setdiff1d(np.arange(source.num_classes), test.labels)).size:
        notes.append(f"the test split lacks samples of {absent.size} of the classes, such as class {absent[0]}")
    return tuple(notes)
