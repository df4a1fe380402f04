"""Keeps features while they are captured: in memory up to a budget, then in a temporary file mapped into memory."""

import mmap
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import IO, Self

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ..._errors import FeatureStoreError, InputError
from ..._files import path_of

#: Rows are gathered in blocks of about this many bytes if their number is not known in advance. A block is large
#: enough that the allocator maps it by itself and returns it to the system when it is freed.
BLOCK_BYTES = 64 * 2**20
#: So many rows are copied at once when others are taken out.
_ROWS_MOVED = 4096


class Budget:
    """A number of bytes of memory that several stores share."""

    def __init__(self, num_bytes: int):
        self.free = num_bytes

    def take(self, num_bytes: int) -> bool:
        """Takes bytes from the budget; returns False, with nothing taken, if too few are left."""
        if num_bytes > self.free:
            return False
        self.free -= num_bytes
        return True


class FeatureStore:
    """Features (samples, features) and labels (samples,), appended batch by batch and read as one tensor each.

    When they exceed the budget (a number of bytes, or a `Budget` shared with other stores), all features move to a
    temporary file in `folder` (by default the system's, which may itself be in memory), and `features` maps it. The
    file has no name once it is open, so nothing is left of it after `close`, an exception or the end of the process.
    (Windows, where an open file keeps its name, deletes it when it is closed.) If the number of samples is `expected`,
    their memory is allocated at once; more may come. Features stay in the type they have.

    >>> with FeatureStore(budget=2**20) as store:
    ...     store.append(torch.ones(2, 3), torch.tensor([0, 1]))
    ...     store.append(torch.zeros(1, 3), torch.tensor([1]))
    ...     store.features.shape, store.labels
    (torch.Size([3, 3]), tensor([0, 1, 1]))
    """

    def __init__(self, budget: Budget | int, folder: Path | None = None, *, expected: int | None = None):
        self.budget = budget if isinstance(budget, Budget) else Budget(budget)
        self.folder = path_of(tempfile.gettempdir() if folder is None else folder)
        self.expected = expected
        self.num_samples = 0
        self._row: Tensor | None = None  # an empty tensor with the width and the type of every row
        self._blocks: list[Tensor] = []
        self._filled = 0  # number of rows used in the last block
        self._file: IO[bytes] | None = None
        self._labels: list[Tensor] = []
        self._closed = False

    def append(self, features: Float[Tensor, "samples features"], labels: Int64[Tensor, " samples"]) -> None:
        """Copies a batch in. Raises `ValueError` if width or type changed, `FeatureStoreError` if the disk is full."""
        features = features.detach()
        if self._row is None:
            self._row = torch.empty(0, features.shape[1], dtype=features.dtype)
        if features.shape[1] != self._row.shape[1] or features.dtype != self._row.dtype:
            raise InputError(
                f"earlier batches had {self._row.shape[1]} features of {self._row.dtype}, this one has "
                f"{features.shape[1]} of {features.dtype}; every batch must have the same (inputs of different sizes "
                f"give maps of different sizes: average these)"
            )
        if self._file is None and not self._keep(features):
            self._move_to_file(len(features))
        if self._file is not None:
            self._write(features.to("cpu").contiguous(), len(features))
        self._labels.append(labels.detach().to("cpu", copy=True))
        self.num_samples += len(features)

    @property
    def in_file(self) -> bool:
        """Whether the features have outgrown the budget."""
        return self._file is not None

    @property
    def features(self) -> Float[Tensor, "samples features"]:
        """All features as one tensor, which outlives the store; it is mapped from the file if there is one."""
        self._check_open()
        if self._row is None:
            raise InputError("there are no features: nothing was appended")
        if self._file is None:
            return self._join()
        width = self._row.shape[1]
        if not self.num_samples * width:
            return self._row
        # Shared, since a private writable mapping counts against the memory that the system may promise.
        mapped = mmap.mmap(self._file.fileno(), self.num_samples * self._row_bytes, access=mmap.ACCESS_WRITE)
        return torch.frombuffer(mapped, dtype=self._row.dtype, count=self.num_samples * width).view(-1, width)

    @property
    def labels(self) -> Int64[Tensor, " samples"]:
        """All labels as one tensor."""
        self._check_open()
        if len(self._labels) > 1:
            self._labels = [torch.cat(self._labels)]
        return self._labels[0] if self._labels else torch.empty(0, dtype=torch.int64)

    def leave(self, rows: Int64[Tensor, " left"]) -> None:
        """Leaves these rows alone, in ascending order; nothing is appended afterwards."""
        features, self._labels = self.features, [self.labels[rows]]
        for start, some in zip(range(0, len(rows), _ROWS_MOVED), rows.split(_ROWS_MOVED), strict=False):
            features[start : start + len(some)] = features[some]  # a row never moves past one that is still to move
        self.num_samples = self._filled = len(rows)

    def close(self) -> None:
        """Releases memory and file. Tensors already returned stay valid, and keep what they need."""
        self._blocks, self._labels = [], []
        self._closed = True
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise InputError("the store is closed; read its features and labels before closing it")

    @property
    def _row_bytes(self) -> int:
        assert self._row is not None
        return self._row.shape[1] * self._row.element_size()

    # ---- in memory

    def _keep(self, features: Tensor) -> bool:
        """Copies rows into blocks of memory; returns False, with nothing copied, if the budget allows no new block."""
        room = len(self._blocks[-1]) - self._filled if self._blocks else 0
        rest = len(features) - room
        if rest > 0:
            rows = max(rest, self._block_rows(room))
            if not self.budget.take(rows * self._row_bytes):
                return False
        if room > 0:
            self._blocks[-1][self._filled : self._filled + len(features)].copy_(features[:room])
            self._filled += min(room, len(features))
        if rest > 0:
            self._blocks.append(features.new_empty(rows, features.shape[1], device="cpu"))
            self._blocks[-1][:rest].copy_(features[room:])
            self._filled = rest
        return True

    def _block_rows(self, room: int) -> int:
        """Returns the rows of a new block: all that are still to come if known, otherwise what the budget allows."""
        to_come = (self.expected or 0) - self.num_samples - room
        return to_come if to_come > 0 else min(BLOCK_BYTES, self.budget.free) // max(self._row_bytes, 1)

    def _join(self) -> Tensor:
        assert self._row is not None
        if len(self._blocks) > 1:
            # Blocks are freed as they are copied, so that the features are never in memory twice.
            whole = self._row.new_empty(self.num_samples, self._row.shape[1])
            self._drain(lambda block, start: whole[start : start + len(block)].copy_(block))
            self._blocks, self._filled = [whole], self.num_samples
        return self._blocks[0][: self.num_samples] if self._blocks else self._row

    def _drain(self, receive: Callable[[Tensor, int], object]) -> None:
        self._blocks.reverse()
        start = 0
        while self._blocks:
            block = self._blocks.pop()
            block = block if self._blocks else block[: self._filled]
            receive(block, start)
            start += len(block)

    # ---- in a file

    def _move_to_file(self, arriving: int) -> None:
        try:
            # Unbuffered, so that a full disk shows in the write and not in some later flush.
            self._file = tempfile.TemporaryFile(dir=self.folder, prefix="neurocollapse-", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise FeatureStoreError(
                f"cannot keep features in a file in {self.folder} ({error.strerror}); name another folder, "
                f"or allow more memory than {self.budget.free} bytes"
            ) from error
        weakref.finalize(self, self._file.close)  # so that a store dropped without `close` does not warn
        self.budget.free += sum(block.nbytes for block in self._blocks)
        self._drain(lambda block, start: self._write(block, arriving))

    def _write(self, rows: Tensor, arriving: int) -> None:
        # Written, not assigned through a mapping, where a full disk would end the process with a bus error.
        assert self._file is not None
        rest = rows.view(-1).view(torch.uint8).numpy().data
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._file.close()
            needed = max(self.num_samples + arriving, self.expected or 0) * self._row_bytes
            raise FeatureStoreError(
                f"cannot keep features in a file in {self.folder} ({error.strerror}): it takes {needed} bytes "
                f"at the least; make room, name another folder, or measure in one pass without keeping features"
            ) from error
