"""Sees whether a loader shows the same inputs again, as a data set may that repeats samples in its own code."""

import torch
from torch import Tensor

from .loaders import Batch
from .names import Origin

#: So many numbers of a sample tell it from others; with fewer than `_FEWEST`, or of fewer values, samples may be equal.
_NUMBERS, _FEWEST = 256, 16
#: Samples that repeat in the order of earlier ones, or backwards. Data have equal samples, but not so many in order.
_IN_ORDER = 8
#: The share of samples that equal earlier ones, from which data are taken to repeat.
_MANY = 0.2

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Repeats:
    """Keeps a number for each sample, made of its input, and where the sample stands in the data.

    Inputs are compared where the model takes one tensor of floating-point numbers or of images, with 16 numbers or more
    for a sample. Words, few numbers, and numbers of few values, may come again in any data.
    """

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.places: list[Tensor] = []
        self.num_classes = 0
        self.values: set[float] = set()  # a few of those seen

    def add(self, batch: Batch, origin: Origin) -> None:
        """Adds the samples of a batch."""
        size = origin.labels_shape[0] if origin.labels_shape else 0
        given = [each for each in (*batch.args, *batch.kwargs.values()) if isinstance(each, Tensor) and each.ndim > 1]
        given = [each for each in given if len(each) == size]
        if len(given) != 1 or not (given[0].is_floating_point() or given[0].ndim > 2):
            return
        values = given[0].detach().flatten(1)
        if values.shape[1] < _FEWEST or values.element_size() not in _INTEGERS:
            return
        if values.shape[1] > _NUMBERS:
            values = values[:, :: values.shape[1] // _NUMBERS | 1]  # an odd step meets every column of an image
        if len(self.values) < _FEWEST:
            self.values.update(values[:_FEWEST].unique().tolist())
        keys, telling = _keys(values)
        indices = range(origin.seen, origin.seen + size) if origin.indices is None else origin.indices
        self.keys.append(keys[telling].cpu())
        self.places.append(torch.tensor(indices)[telling.cpu()])
        self.num_classes = max(self.num_classes, int(batch.labels.max()) + 1)

    def count(self) -> tuple[int, int] | None:
        """Returns the number of samples and of different inputs, if more are equal than are in any data."""
        if not self.keys or len(self.values) < _FEWEST:
            return None
        keys = torch.cat(self.keys)[torch.cat(self.places).argsort(stable=True)]
        _, counts = keys.unique(return_counts=True)
        if len(counts) <= max(1, self.num_classes):  # one point for each class, as in a problem made up
            return None
        before = _place_before(keys)
        in_order = (before.diff().abs() == 1) & (before[1:] >= 0) & (before[:-1] >= 0) & (keys.diff() != 0)
        if int(in_order.sum()) < _IN_ORDER and len(keys) - len(counts) < max(_IN_ORDER, _MANY * len(keys)):
            return None
        return len(keys), len(counts)


def _keys(values: Tensor) -> tuple[Tensor, Tensor]:
    """Returns a number for each row, the same for equal rows, and whether it tells: not if the row is nearly constant.

    The numbers are sums of products with fixed random integers, modulo 2⁶⁴, which have no rounding.
    """
    factors = torch.randint(2**62, values.shape[1:], generator=torch.Generator().manual_seed(0))
    bits = values.contiguous().view(_INTEGERS[values.element_size()]).long()
    keys = (bits * factors.to(bits.device)).sum(dim=1)
    return keys, (bits != bits[:, :1]).sum(dim=1) >= min(_FEWEST, bits.shape[1] - 1)


def _place_before(keys: Tensor) -> Tensor:
    """Returns where each key stood last before, or −1."""
    order = keys.argsort(stable=True)
    same = keys[order][1:] == keys[order][:-1]
    before = torch.full_like(keys, -1)
    before[order[1:][same]] = order[:-1][same]
    return before
