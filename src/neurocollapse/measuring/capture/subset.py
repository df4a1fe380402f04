"""Chooses a stratified part of a data set without loading a sample."""

import operator
import warnings
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from ..._errors import CaptureWarning, InputError
from .loaders import LABEL_KEYS


def stratified_subset(
    loader: Iterable[Any], per_class: int, seed: int = 0, *, label_key: str | int | None = None
) -> DataLoader[Any]:
    """Returns a loader of `per_class` samples of every class, drawn by `seed`, or of all in a class with fewer.

    Labels are read from the data set's `targets` or `labels`, the last tensor of a TensorDataset, or a column, as in
    `dataset["labels"]`, also through Subset and ConcatDataset. `label_key` names another column. Samples that a
    SubsetRandomSampler leaves out stay out, and one that comes again is drawn once, with a warning. Batches come in the
    data set's order, with the same size, `collate_fn` and number of workers.

    Raises:
        ValueError: `per_class` is less than one, `loader` is no DataLoader, the data set does not have its labels at
            hand, or the sampler does not say which samples it shows.

    >>> data = TensorDataset(torch.arange(6.0), torch.tensor([0, 0, 0, 1, 1, 1]))
    >>> [labels.tolist() for _, labels in stratified_subset(DataLoader(data, batch_size=4), per_class=2)]
    [[0, 0, 1, 1]]
    """
    if per_class < 1:
        raise InputError(f"per_class must be at least 1, got {per_class}")
    if isinstance(dataset := getattr(loader, "dataset", None), IterableDataset):
        raise InputError(
            f"{type(dataset).__name__} does not have its labels at hand, since it yields one sample after the other; "
            f"pass max_per_class= in place of subset=, which takes the first of each class"
        )
    if not isinstance(loader, DataLoader):
        raise InputError(f"a subset is drawn from the data set of a DataLoader, got {type(loader).__name__}; pass one")
    labels = labels_of(loader.dataset, label_key)
    chosen = torch.tensor(_different(loader), dtype=torch.int64)
    shuffled = chosen[torch.randperm(len(chosen), generator=torch.Generator().manual_seed(seed))]
    parts = [shuffled[labels[shuffled] == label][:per_class] for label in labels[chosen].unique()]
    indices = torch.cat(parts).sort().values.tolist() if parts else []
    drawn = reloaded(loader, indices)
    drawn.dataset.labels = labels  # type: ignore[attr-defined]
    return drawn


def _different(loader: DataLoader[Any]) -> list[int]:
    """Returns the indices of the samples that a loader shows, each once, with a `CaptureWarning` if it repeats."""
    shown, dataset = indices_of(loader), loader.dataset
    different: dict[tuple[int, int], int] = {}
    for index in shown:
        within, place = origin(dataset, index)
        different.setdefault((id(within), place % len(within)), index)
    if len(different) < len(shown):
        warnings.warn(
            f"the loader repeats samples: the {len(shown)} that it shows are {len(different)} different ones "
            f"({type(dataset).__name__}), and the subset is drawn from these; pass a loader that shows each once",
            CaptureWarning,
            stacklevel=6,
        )
    return list(different.values())


class Quota:
    """Takes the first so many samples of every class, in the order in which they come."""

    def __init__(self, per_class: int):
        self.per_class = per_class
        self.taken = torch.zeros(0, dtype=torch.int64)

    def __call__(self, labels: Int64[Tensor, " samples"]) -> Int64[Tensor, " taken"]:
        """Returns the places of the samples that are taken, in their order."""
        classes, places = labels.cpu().unique(return_inverse=True)
        missing = int(classes[-1]) + 1 - len(self.taken) if len(classes) else 0
        self.taken = torch.cat([self.taken, self.taken.new_zeros(max(0, missing))])
        order = places.argsort(stable=True)
        starts = places.bincount().cumsum(0).roll(1).index_fill_(0, torch.tensor([0]), 0) if len(classes) else classes
        number = torch.arange(len(order)) - starts[places[order]] + self.taken[classes[places[order]]]
        taken = order[number < self.per_class].sort().values
        self.taken += torch.bincount(labels.cpu()[taken], minlength=len(self.taken))
        return taken


def indices_of(loader: DataLoader[Any]) -> Sequence[int]:
    """Returns the indices of the samples that a loader shows, in any order; those of all processes that share it.

    Raises `ValueError` if a custom sampler leaves some out, since only reading it would show which.

    >>> list(indices_of(DataLoader(range(3), shuffle=True)))
    [0, 1, 2]
    """
    sampler = getattr(loader.batch_sampler, "sampler", loader.sampler)
    if isinstance(sampler, DistributedSampler):  # Lightning's may hold another one in place of a data set
        sampler = getattr(sampler.dataset, "_sampler", sampler)
    if isinstance(sampler, SubsetRandomSampler):
        return list(sampler.indices)
    total = len(loader.dataset)  # type: ignore[arg-type]
    draws = isinstance(sampler, RandomSampler | WeightedRandomSampler)
    shares = isinstance(sampler, DistributedSampler) or hasattr(sampler, "num_replicas")
    if not draws and not shares and len(sampler) != total:  # type: ignore[arg-type]
        raise InputError(
            f"{type(sampler).__name__} shows {len(sampler)} of {total} samples, but not which ones; "  # type: ignore[arg-type]
            f"pass a loader of torch.utils.data.Subset(dataset, indices) instead"
        )
    return range(total)


class Part(Subset[Any]):
    """Samples that this package chose: what it says of a sample has the index in the data set that it chose from."""

    #: of all samples of that data set, if they were chosen by these
    labels: Tensor | None = None


class BatchesOf(list[Any]):
    """Some batches of a list, and their places in it, by which a sample is named."""

    def __init__(self, whole: Sequence[Any], places: Sequence[int]):
        super().__init__(whole[place] for place in places)
        self.places = places


def reloaded(loader: DataLoader[Any], indices: Sequence[int] | None) -> DataLoader[Any]:
    """Returns a loader of these samples of the data set, in this order, with the other settings of `loader`.

    None stands for all samples of a data set without an index.
    """
    unbatched = loader.batch_sampler is None and loader.batch_size is None  # the data set yields whole batches
    return DataLoader(
        loader.dataset if indices is None else Part(loader.dataset, indices),
        batch_size=None if unbatched else loader.batch_size or getattr(loader.batch_sampler, "batch_size", None) or 1,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
    )


def labels_of(dataset: Dataset[Any], label_key: str | int | None = None) -> Int64[Tensor, " samples"]:
    """Returns the labels of all samples, if the data set has them as an array. Raises `ValueError` if not."""
    if isinstance(dataset, Subset):
        return labels_of(dataset.dataset, label_key)[torch.as_tensor(list(dataset.indices), dtype=torch.int64)]
    if isinstance(dataset, ConcatDataset):
        return torch.cat([labels_of(part, label_key) for part in dataset.datasets])
    for found in _kept_labels(dataset, LABEL_KEYS if label_key is None else (label_key,)):
        try:
            labels = torch.as_tensor(found)
        except Exception:  # whatever the data set keeps there, it is no array
            continue
        if labels.ndim == 1 and not labels.is_floating_point() and not labels.is_complex():
            return labels.long()
    raise InputError(
        f"{type(dataset).__name__} does not have its labels at hand: a subset needs integers, one per sample, in its "
        f"`targets` or `labels` or in a column; set one of them, or pass a loader of the subset itself"
    )


def _kept_labels(dataset: Dataset[Any], keys: Sequence[str | int]) -> Iterator[Any]:
    """Yields what may be the labels of all samples."""
    if isinstance(dataset, TensorDataset):
        yield dataset.tensors[-1]
    yield from (getattr(dataset, name) for name in ("targets", "labels") if hasattr(dataset, name))
    for key in keys:
        if isinstance(key, str):
            with suppress(Exception):  # whatever a data set without columns raises for a name
                column: Any = dataset[key]
                yield column if isinstance(column, Tensor) else list(column)


def origin(dataset: Any, index: int) -> tuple[Any, int]:
    """Returns the data set, within Subset and ConcatDataset, and the index there of a sample."""
    while True:
        if isinstance(dataset, Subset):
            dataset, index = dataset.dataset, operator.index(dataset.indices[index])
        elif isinstance(dataset, ConcatDataset):
            index = index % len(dataset)
            part = bisect_right(dataset.cumulative_sizes, index)
            index -= dataset.cumulative_sizes[part - 1] if part else 0
            dataset = dataset.datasets[part]
        else:
            return dataset, index
