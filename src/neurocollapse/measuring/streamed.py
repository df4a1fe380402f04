"""Features that are not in memory as a whole."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .._errors import InputError

_CPU = torch.device("cpu")

#: About this many bytes of features are read at once.
READ_BYTES = 2**26


@dataclass(frozen=True)
class StreamedFeatures:
    """Features (samples, features) that are read in blocks of samples, once in each sweep.

    Raises `InputError` for another number of axes.
    """

    shape: tuple[int, ...]
    #: yields the blocks, from the first sample to the last
    blocks: Callable[[], Iterable[Tensor]]
    device: torch.device = _CPU

    def __post_init__(self) -> None:
        if len(self.shape) != 2:
            raise InputError(f"features must be (samples, features), got {self.shape}")

    def __len__(self) -> int:
        return self.shape[0]

    def sweep(self, labels: Tensor, update: Callable[[Tensor, Tensor], object]) -> None:
        """Calls `update` with each block and its labels. Raises `InputError` unless there are labels for all."""
        start = 0
        for block in self.blocks():
            update(block, labels[start : start + len(block)])
            start += len(block)
            del block  # before the next one is read
        if not start == len(self) == len(labels):
            raise InputError(
                f"{start} samples were read, and there are {len(labels)} labels for {len(self)}; "
                f"leave the files alone while they are read"
            )

    def chosen(self, places: Tensor) -> "StreamedFeatures":
        """These features for some samples alone, whose places are sorted."""

        def blocks() -> Iterator[Tensor]:
            start = 0
            for block in self.blocks():
                first, end = torch.searchsorted(places, torch.tensor([start, start + len(block)], device=places.device))
                chosen, start = block[places[first:end] - start], start + len(block)
                del block
                yield chosen

        return StreamedFeatures((len(places), *self.shape[1:]), blocks, self.device)


def rows_at_once(row_bytes: int) -> int:
    """Returns how many samples of this size a block has."""
    return max(1, READ_BYTES // max(row_bytes, 1))
