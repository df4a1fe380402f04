"""The losses that a classifier can be trained on, summed over samples so that batches add up."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


def square_loss(outputs: Float[Tensor, "samples classes"], labels: Int[Tensor, " samples"]) -> Float[Tensor, ""]:
    """Σ_i ‖f_i − y_i‖² / 2 over the samples given; divide by their number for the data term of Eq. 1."""
    # Not one_hot, which looks at the labels' values: torch.func cannot stack that, and a GPU would have to wait for it.
    targets = (labels[:, None] == torch.arange(outputs.shape[1], device=outputs.device)).to(outputs.dtype)
    return (outputs - targets).square().sum() / 2


def cross_entropy(outputs: Float[Tensor, "samples classes"], labels: Int[Tensor, " samples"]) -> Float[Tensor, ""]:
    """−Σ_i log softmax(f_i)_{c(i)} over the samples given."""
    return nn.functional.cross_entropy(outputs, labels, reduction="sum")


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"square": square_loss, "cross_entropy": cross_entropy}
