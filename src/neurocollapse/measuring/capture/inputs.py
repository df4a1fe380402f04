"""Turns the input of a layer with a weight into rows of as many numbers as a row of the weight has.

A linear layer sees its input features; tokens and positions become rows as those of its output do, or their mean. A
convolution sees patches, one at each place of its output, and its row is their mean, whose products with the filters
are the means of the output maps.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...networks import CONVOLUTIONS
from ...statistics import full_precision

#: Layers whose weight is read as a matrix, (outputs, inputs): a convolution's filters are its rows.
WEIGHTED = (nn.Linear, *CONVOLUTIONS)


Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


def mean_patch(
    convolution: Convolution, maps: Float[Tensor, "samples channels *places"]
) -> Float[Tensor, "samples inputs"]:
    """The mean over the places of a convolution's output of the patch that it sees there, padding included.

    Only sums over each axis are taken: which places a position of the kernel meets is the product of those of the axes.
    """
    means = maps.float() if maps.element_size() < 4 else maps
    with full_precision(maps.device):
        for axis in reversed(range(maps.ndim - 2)):
            shares = _shares(convolution, axis, maps.shape[2 + axis]).to(means)
            means = torch.tensordot(means, shares, dims=([2 + axis], [0])).movedim(-1, 2 + axis)
    return means.flatten(1)


def _shares(convolution: Convolution, axis: int, length: int) -> Float[Tensor, "length kernel"]:
    """How often each place of an axis is met by each position of the kernel, as a share of the output's places."""
    size, stride, dilation = (getattr(convolution, name)[axis] for name in ("kernel_size", "stride", "dilation"))
    mode = convolution.padding_mode
    padding = convolution._reversed_padding_repeated_twice  # (last axis before, after, the one before it, ...)
    place = 2 * (len(convolution.kernel_size) - 1 - axis)
    before, after = padding[place : place + 2]
    numbered = torch.arange(1.0, length + 1)[None, None]
    padded = nn.functional.pad(numbered, (before, after), "constant" if mode == "zeros" else mode).flatten().long()
    starts = torch.arange(0, len(padded) - dilation * (size - 1), stride)
    met = padded[starts[:, None] + dilation * torch.arange(size)]  # zero stands for padding with zeros
    return (met[None] == torch.arange(1, length + 1)[:, None, None]).double().mean(dim=1)
