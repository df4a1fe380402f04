"""Names samples by their index in the data, for messages."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ..._errors import InputError, SampleError


@dataclass(frozen=True)
class Origin:
    """Which samples those of a batch are: their indices in the data, or how many came before, or which batch it is."""

    labels_shape: torch.Size
    seen: int
    indices: list[int] | None
    batch: int | None = None

    def name(self, label: int) -> str:
        """Returns the name of the sample, and of the position in it, that a label of the batch is of."""
        sample, *position = (int(i) for i in torch.unravel_index(torch.tensor(label), self.labels_shape))
        name = str(self.seen + sample if self.indices is None else self.indices[sample])
        if self.batch is not None:
            name = f"{sample} of batch {self.batch}"
        return f"{name}, position {position}" if self.labels_shape.numel() > self.labels_shape[0] else name

    def turns(self, labels: Tensor) -> Tensor:
        """Returns how many samples its process read before that of each label, or of a list the place of its batch."""
        if self.batch is not None:
            return torch.full_like(labels, self.batch, dtype=torch.int64)
        return self.seen + labels.long() // (self.labels_shape.numel() // self.labels_shape[0])


class Names:
    """The names of the samples that rows are of; only those of the last batch, if the rows are not kept."""

    def __init__(self, *, kept: bool):
        self.kept = kept
        self.batches: list[tuple[int, Tensor, Origin]] = []  # each with the number of rows before
        self.num_rows = 0
        self.left: Tensor | None = None  # the numbers of the rows that are left, if some were taken out

    def add(self, source: Tensor, origin: Origin) -> None:
        """Adds the rows of a batch, each with the number of its label there."""
        if not self.kept:
            self.batches.clear()
        self.batches.append((self.num_rows, source.to("cpu", torch.int32), origin))
        self.num_rows += len(source)

    def turns(self) -> Tensor:
        """Returns the turn of every row: see `Origin.turns`."""
        return torch.cat([origin.turns(source) for _, source, origin in self.batches])

    def __getitem__(self, row: int) -> str:
        row = row if self.left is None else int(self.left[row])
        before, source, origin = next(batch for batch in reversed(self.batches) if batch[0] <= row)
        return origin.name(int(source[row - before]))

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Names the sample in a `SampleError` of the rows so far."""
        try:
            yield
        except SampleError as error:
            raise error.named(self[int(error.sample)]) from error


@contextmanager
def about(what: str) -> Iterator[None]:
    """Adds what it is about to a `ValueError`."""
    try:
        yield
    except ValueError as error:
        raise InputError(f"{what}: {error}") from error
