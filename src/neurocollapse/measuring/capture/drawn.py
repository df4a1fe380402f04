"""Sees which samples of its data set a loader shows, while it shows them."""

import copy
import operator
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, WeightedRandomSampler

from ..._errors import CaptureWarning
from .loaders import Batch
from .names import Origin
from .repeats import Repeats
from .subset import BatchesOf, Part, origin

#: What a sampler has that shows this process's share.
_SHARED = ("num_replicas", "num_processes")


class Drawn:
    """Yields what a loader yields, and knows of each batch which samples of the data set it shows.

    That is known for a DataLoader of a data set with an index, also with workers, which draw ahead.
    """

    def __init__(self, loader: Iterable[Any]):
        self.loader = loader
        self.indices: list[int] | None = None  # in the batch yielded last
        self.seen = 0  # samples in the batches before
        self.batch: int | None = None  # the place of the batch yielded last, in a list of which this is a part
        self.counted: dict[int, bytearray] = {}  # by data set, whether each sample was seen
        self.total = self.different = 0
        self.unequal: tuple[int, int] | None = None  # the samples drawn and the labels yielded, where they differ
        self.drawn_by = next((each.labels for each in _parts(loader) if each.labels is not None), None)
        self.kept_and_shown: Counter[tuple[int, int]] = (
            Counter()
        )  # labels that a subset was drawn by, and those yielded
        self.copies = 0  # batches of a data set without an index that equal the one before, of another worker
        self.repeats = Repeats()
        self._waiting: deque[Any] = deque()

    def __iter__(self) -> Iterator[Any]:
        before: Any = None
        has_workers = isinstance(self.loader, DataLoader) and isinstance(self.loader.dataset, IterableDataset)
        has_workers &= getattr(self.loader, "num_workers", 0) > 1
        for number, item in enumerate(self._watched()):
            self.batch = self.loader.places[number] if isinstance(self.loader, BatchesOf) else None
            if has_workers:
                self.copies += _same(item, before)
                before = item
            drawn = self._waiting.popleft() if self._waiting else None
            self.indices = None if drawn is None else self._looked_up(drawn)
            yield item

    def origin(self, batch: Batch) -> Origin:
        """Returns which samples those of the batch yielded last are, given as it is used; call it once for each."""
        labels = batch.labels
        if self.indices is not None and len(self.indices) != len(labels):
            self.unequal = self.unequal or ((len(self.indices), len(labels)) if labels.ndim == 1 else None)
            self.indices = None
        self.seen += len(labels)
        origin = Origin(labels.shape, self.seen - len(labels), self.indices, self.batch)
        self.repeats.add(batch, origin)
        if self.drawn_by is not None and labels.ndim == 1 and self.indices is not None:
            kept = self.drawn_by[torch.tensor(self.indices)].tolist()
            self.kept_and_shown.update(zip(kept, labels.tolist(), strict=True))
        return origin

    def warn(self, *, stacklevel: int) -> None:
        """Warns, with `CaptureWarning`, if samples were not shown once each."""
        for fault in self._faults():
            warnings.warn(fault, CaptureWarning, stacklevel=stacklevel + 1)

    def _faults(self) -> Iterator[str]:
        once = "measure with a loader that shows each sample once"
        if not isinstance(self.loader, DataLoader):
            if counted := self.repeats.count():
                yield f"the loader repeats samples: the {counted[0]} that it showed have {counted[1]} inputs; {once}"
            return
        batch_sampler, dataset = self.loader.batch_sampler, self.loader.dataset
        sampler = getattr(batch_sampler, "sampler", self.loader.sampler)
        was_told = isinstance(sampler, RandomSampler | WeightedRandomSampler) and sampler.replacement
        kinds = dict.fromkeys(type(each).__name__ for each in (batch_sampler, sampler, dataset) if each is not None)
        if self.different < self.total and not was_told:
            yield (
                f"the loader repeats samples: the {self.total} that it showed are {self.different} different ones "
                f"({', '.join(kinds)}); {once}"
            )
        elif not was_told and not self.copies and (counted := self.repeats.count()):
            yield (
                f"{type(dataset).__name__} repeats samples: the {counted[0]} that it showed have {counted[1]} "
                f"different inputs; measure with data that hold each sample once"
            )
        elif 0 < self.total < len(dataset) and (own := _of_its_own(batch_sampler, sampler)):  # type: ignore[arg-type]
            left_out = len(dataset) - self.total  # type: ignore[arg-type]
            yield f"{own} leaves out {left_out} of {left_out + self.total} samples; {once}"
        if self.copies:
            yield (
                f"workers yield the same samples: {self.copies} batches equal the one before; share a "
                f"{type(dataset).__name__} among them by torch.utils.data.get_worker_info, or pass num_workers=1"
            )
        pairs = self.kept_and_shown
        if len(pairs) > min(len({kept for kept, _ in pairs}), len({shown for _, shown in pairs})):
            counts: Counter[int] = Counter()
            for (_, shown), number in pairs.items():
                counts[shown] += number
            yield (
                f"the labels by which the subset was drawn are not those that the loader yields, of which it has "
                f"{min(counts.values())} to {max(counts.values())} a class; let the data set's `targets` be its "
                f"labels, or pass max_per_class= in place of subset="
            )
        if self.unequal:
            drawn, shown = self.unequal
            yield (
                f"collate_fn makes {shown} labels of {drawn} samples, so samples are left out, split or repeated; "
                f"measure with one that keeps each sample once"
            )

    def _watched(self) -> Iterable[Any]:
        loader = self.loader
        if (
            not isinstance(loader, DataLoader)
            or isinstance(loader.dataset, IterableDataset)
            or type(loader).__iter__ is not DataLoader.__iter__
            or not getattr(loader, "in_order", True)
        ):
            return loader
        name = "sampler" if loader.batch_sampler is None else "batch_sampler"
        twin = copy.copy(loader)  # past DataLoader's own lock on its attributes; workers that persist stay the loader's
        vars(twin).update({name: _Watched(getattr(loader, name), self._saw), "_iterator": None})
        return twin

    def _saw(self, drawn: Any) -> None:
        drawn = drawn.tolist() if hasattr(drawn, "tolist") else drawn  # an array of indices
        in_batch = isinstance(drawn, list | tuple | range)
        # without a batch sampler one index may stand for a whole batch
        self._waiting.append(list(drawn) if in_batch else None)
        for index in drawn if in_batch else [drawn]:
            self._count(index)

    def _count(self, index: Any) -> None:
        try:
            dataset, place = origin(self.loader.dataset, operator.index(index))  # type: ignore[attr-defined]
            if id(dataset) not in self.counted:
                self.counted[id(dataset)] = bytearray(len(dataset))
            seen = self.counted[id(dataset)]
            self.total, self.different = self.total + 1, self.different + (not seen[place])
            seen[place] = 1
        except (TypeError, IndexError):  # keys of a data set of its own kind
            return

    def _looked_up(self, drawn: list[Any]) -> list[int] | None:
        try:
            indices = [operator.index(index) for index in drawn]
        except TypeError:
            return None
        for part in _parts(self.loader):
            indices = [part.indices[index] for index in indices]
        return indices


def _parts(loader: Iterable[Any]) -> Iterator[Part]:
    """Yields the parts, each of the next, that this package chose of the data set of a loader."""
    dataset = getattr(loader, "dataset", None)
    while isinstance(dataset, Part):
        yield dataset
        dataset = dataset.dataset


def _of_its_own(*samplers: Any) -> str | None:
    """Returns the class of a sampler that may show any samples, as it is neither PyTorch's nor a list of indices.

    What has a number of replicas or processes shows this process's share, if there is a process group.
    """
    shared = torch.distributed.is_available() and torch.distributed.is_initialized()
    for each in samplers:
        as_given = type(each).__module__.startswith("torch.") or hasattr(each, "__getitem__")
        if each is not None and not as_given and not (shared and any(hasattr(each, name) for name in _SHARED)):
            return type(each).__name__
    return None


def _same(first: Any, second: Any) -> bool:
    """Whether two batches have the same numbers."""
    if isinstance(first, Tensor):
        return isinstance(second, Tensor) and torch.equal(first, second)
    if isinstance(first, Mapping):
        return isinstance(second, Mapping) and _same(list(first.values()), list(second.values()))
    if isinstance(first, list | tuple):
        return isinstance(second, list | tuple) and len(first) == len(second) and all(map(_same, first, second))
    return first is second


class _Watched:
    """A sampler that reports what it draws."""

    def __init__(self, sampler: Any, saw: Any):
        self.sampler, self.saw = sampler, saw

    def __iter__(self) -> Iterator[Any]:
        for drawn in self.sampler:
            self.saw(drawn)
            yield drawn

    def __len__(self) -> int:
        return len(self.sampler)
