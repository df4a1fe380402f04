"""Several processes that measure together: who takes which samples, and how what they gather becomes one."""

import warnings
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, TypeVar

import torch.distributed
from torch.utils.data import DataLoader, IterableDataset

from .._errors import CaptureWarning, InputError
from ..statistics import ClassMeans, ClassMoments, Projections
from .capture.subset import indices_of, reloaded

T = TypeVar("T")
M = TypeVar("M", ClassMeans, ClassMoments, Projections)


class Processes:
    """This process, alone or one of the default process group.

    Every process calls the same methods in the same order. What fails in one of them fails in all, so that none waits
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
        """This process's part of the data: every sample in exactly one part, so parts may differ in length by one.

        A sampler that pads its parts to one length, as `DistributedSampler` does, is left out of account. A list is
        split by its batches. A loader that cannot be split, since its data set has no index, is taken to yield this
        process's part, with a warning. None where there is less than processes and this one gets none.

        Raises:
            ValueError: the sampler does not say which samples it shows.
        """
        if self.size == 1:
            return loader
        if isinstance(loader, Sequence):
            return loader[self.rank :: self.size] or (None if self.rank else loader)
        if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
            warnings.warn(
                f"a {type(loader).__name__} without an index cannot be split among processes: each is taken to yield "
                f"its own part, and what several of them yield counts as often; pass a DataLoader of a data set with "
                f"an index, or together=False",
                CaptureWarning,
                stacklevel=3,
            )
            return loader
        indices = indices_of(loader)[self.rank :: self.size]
        # the first process reads even a loader of nothing, and says so
        return reloaded(loader, indices) if indices or not self.rank else None

    def all(self, make: Callable[[], T]) -> list[T]:
        """What every process makes, in the order of their ranks."""
        if self.size == 1:
            return [make()]
        try:
            mine: T | Exception = make()
        except Exception as error:  # whatever it is, the others must hear of it
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
        """What this process makes, once all have succeeded."""
        mine: list[T] = []
        self.all(lambda: mine.append(make()))
        return mine[0]

    def merged(self, make: Callable[[], M | None]) -> M:
        """What all processes make, merged in the order of their ranks, so that every process has the same bits.

        None from a process without samples counts for nothing.
        """
        parts = [part for part in self.all(make) if part is not None]
        return reduce(lambda first, second: first.merge(second), parts)


def _picklable(value: Any) -> Any:
    return RuntimeError(f"{type(value).__name__}: {value}") if isinstance(value, Exception) else value
