"""Turns the input of a layer with a weight into rows of as many numbers as a row of the weight has.

A linear layer sees its input features; tokens and positions become rows as those of its output do, or their mean. A
convolution sees patches, one at each place of its output, and its row is their mean, whose products with the filters
are the means of the output maps.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...networks import CONVOLUTIONS, evaluation, read_head
from ...statistics import full_precision
from .store import FeatureStore

#: Layers whose weight is read as a matrix, (outputs, inputs): a convolution's filters are its rows.
WEIGHTED = (nn.Linear, *CONVOLUTIONS)


@dataclass(frozen=True)
class Weighted:
    """A layer with a weight, and its input, rows as wide as the weight, if there are such."""

    model: nn.Module
    name: str
    module: nn.Module
    inputs: FeatureStore | None

    def read(self) -> Tensor | None:
        """Returns the weight as a matrix (outputs, inputs); None if it is packed into integers, or not in memory."""
        with torch.no_grad(), evaluation(self.model):  # in training, reading may change the weight
            stored = self.module.weight
        if not isinstance(stored, Tensor) or not stored.is_floating_point() or stored.is_meta:
            return None
        return read_head(self.model, self.name, self.module).weight


Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


def mean_patch(
    convolution: Convolution, maps: Float[Tensor, "samples channels *places"]
) -> Float[Tensor, "samples inputs"]:
    """The mean over the places of a convolution's output of the patch that it sees there, padding included."""
    values = maps.float() if maps.element_size() < 4 else maps
    # a private name, but the only one that says what padding="same" comes to
    padding = tuple(convolution._reversed_padding_repeated_twice)
    kernel, stride, dilation = convolution.kernel_size, convolution.stride, convolution.dilation
    shares = _shares(tuple(maps.shape[2:]), kernel, stride, dilation, padding, convolution.padding_mode).to(values)
    with full_precision(maps.device):
        means = shares.T @ values.reshape(-1, len(shares)).T  # many times as fast as values @ shares
    return means.T.reshape(len(maps), -1)


@lru_cache(maxsize=64)
def _shares(
    lengths: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    padding: tuple[int, ...],
    mode: str,
) -> Float[Tensor, "places positions"]:
    """How often each place of a map is met by each position of the kernel, as a share of the places of the output.

    `padding` is before and after the last axis, then the one before it. What meets what is decided axis by axis.
    """
    shares = torch.ones(1, 1, dtype=torch.float64)
    for axis, (length, size, stride, dilation) in enumerate(zip(lengths, kernel, strides, dilations, strict=True)):
        place = 2 * (len(lengths) - 1 - axis)
        numbered = torch.arange(1.0, length + 1)[None, None]
        around = nn.functional.pad(numbered, padding[place : place + 2], "constant" if mode == "zeros" else mode)
        positions = around.flatten().long()  # zero stands for padding with zeros
        starts = torch.arange(0, len(positions) - dilation * (size - 1), stride)
        met = positions[starts[:, None] + dilation * torch.arange(size)]
        of_axis = (met == torch.arange(1, length + 1)[:, None, None]).double().mean(dim=1)
        shares = torch.kron(shares, of_axis)
    return shares
