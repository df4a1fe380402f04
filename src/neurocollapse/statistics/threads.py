"""Shares the samples of a batch among threads, and sets the number of threads that PyTorch uses."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor

#: Numbers in a thread's share, at least; and with more threads than this they would wait for the interpreter.
_LEAST_NUMBERS, _MOST_THREADS = 2**20, 8


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Runs the block with `count` threads, and restores the previous number after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@runtime_checkable
class Gathers(Protocol):
    """What is gathered of samples, in parts that merge."""

    def fold(self, features: Tensor, labels: Tensor, check: Callable[[], None]) -> None:
        """Adds samples; calls `check`, which raises if one is not finite, where they look like it."""

    def without_samples(self) -> Self:
        """Returns the same of no samples yet."""

    def merge(self, other: Self) -> Self:
        """Adds what was gathered of other samples."""


def fold_in_threads(
    gathered: Gathers, features: Tensor, labels: Tensor, check: Callable[[], None], least_samples: int = 1
) -> None:
    """Folds a batch on a CPU in consecutive shares, each in a thread of its own and with at least so many samples.

    PyTorch's own threads wait for one another after every operation. If another program has taken a core, each wait
    lasts as long as the system's time slice, thousands of times in a sweep. Threads that share nothing wait once.
    """
    threads = torch.get_num_threads()
    count = min(threads, _MOST_THREADS, features.numel() // _LEAST_NUMBERS, len(features) // least_samples)
    if count < 2 or features.device.type != "cpu":
        gathered.fold(features, labels, check)
        return
    inference = torch.is_inference_mode_enabled()  # of this thread alone, in which the parts are made

    def work(part: Gathers, some: Tensor, their_labels: Tensor) -> None:
        with torch.inference_mode(inference):
            part.fold(some, their_labels, check)

    parts = [gathered.without_samples() for _ in range(count)]
    shares = zip(parts, features.tensor_split(count), labels.tensor_split(count), strict=True)
    each = threads // count
    with torch_threads(each), ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(each,)) as pool:
        for done in [pool.submit(work, *share) for share in shares]:
            done.result()
    for part in parts:
        gathered.merge(part)
