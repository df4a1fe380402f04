"""Measures in several processes together: splits the samples among them and merges what they gather."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from typing import Any, TypeVar

import torch.distributed
from torch.utils.data import DataLoader, IterableDataset

from .._errors import CaptureWarning, InputError
from ..statistics import ClassMeans, ClassMoments, Projections
from .capture.decisions import Tally
from .capture.subset import BatchesOf, indices_of, reloaded

T = TypeVar("T")
M = TypeVar("M", ClassMeans, ClassMoments, Tally)


class Processes:
    """This process, alone or as one of the default process group.

    Every process calls the same methods in the same order. An error in one of them is raised in all, so that none waits
    for a process that is gone.
    """

    def __init__(self, together: bool | None = None):
        running = torch.distributed.is_available() and torch.distributed.is_initialized()
        if together and not running:
            raise InputError("there is no process group; call torch.distributed.init_process_group first")
        joined = running and together is not False
        self.rank = torch.distributed.get_rank() if joined else 0
        self.size = torch.distributed.get_world_size() if joined else 1

    def share(self, loader: Any) -> Any:
        """Returns this process's part of the data. Every sample is in exactly one part, so lengths may differ by one.

        A sampler that pads its parts to one length, as `DistributedSampler` does, is ignored. A list is split by its
        batches. A loader that cannot be split, since its data set has no index, is assumed to yield this process's
        part, with a warning. Returns None if there are fewer samples than processes and this one gets none.

        Raises:
            ValueError: the sampler does not say which samples it shows.
        """
        if self.size == 1:
            return loader
        if isinstance(loader, Sequence):
            part = BatchesOf(loader, range(self.rank, len(loader), self.size))
            return part or (None if self.rank else loader)
        if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
            whose = type(getattr(loader, "dataset", loader)).__name__
            warnings.warn(
                f"a {whose} without an index cannot be split among processes: each is taken to yield "
                f"its own part, and what several of them yield counts as often; pass a DataLoader of a data set with "
                f"an index, or together=False",
                CaptureWarning,
                stacklevel=4,
            )
            return loader
        indices = indices_of(loader)[self.rank :: self.size]
        # the first process reads even an empty loader, and raises the error for it
        return reloaded(loader, indices) if indices or not self.rank else None

    def all(self, make: Callable[[], T]) -> list[T]:
        """Calls `make` in every process and returns all results, in the order of the ranks."""
        if self.size == 1:
            return [make()]
        try:
            mine: T | Exception = make()
        except Exception as error:  # whatever it is, the others must receive it
            mine = error
        parts: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(parts, _picklable(mine))
        if isinstance(mine, Exception):
            raise mine
        for rank, part in enumerate(parts):
            if isinstance(part, Exception):
                raise RuntimeError(f"process {rank} failed: {part}")
        return parts

    def each(self, make: Callable[[], T]) -> T:
        """Calls `make` in every process and returns this one's result, once all have succeeded."""
        mine: list[T] = []
        self.all(lambda: mine.append(make()))
        return mine[0]

    def in_turn(self, mine: T) -> Iterator[T]:
        """Yields the values of all processes by rank, one at a time, so that a process never holds all of them."""
        for rank in range(self.size):
            value: list[Any] = [mine if rank == self.rank else None]
            if self.size > 1:
                torch.distributed.broadcast_object_list(value, src=rank)
            yield value[0]

    def merged(self, make: Callable[[], M | None]) -> M:
        """Calls `make` in every process and merges the results by rank, so that every process has the same bits.

        A result of None, from a process without samples, is ignored.
        """
        parts = (part for part in self.in_turn(self.each(make)) if part is not None)
        return reduce(lambda first, second: first.merge(second), parts)

    def projected(self, make: Callable[[], Projections]) -> Projections:
        """Does the same for projections on means that all processes have, and sends only what was gathered."""
        mine = self.each(make)
        parts = (mine.with_sums(sums) for sums in self.in_turn(mine.sums))
        return reduce(lambda first, second: first.merge(second), parts)


def _picklable(value: Any) -> Any:
    return RuntimeError(f"{type(value).__name__}: {value}") if isinstance(value, Exception) else value
