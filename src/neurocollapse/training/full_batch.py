"""Eq. 1 on all training data at once, in float64: the objective of the theory, without the noise of mini-batches."""

import copy
from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .losses import LOSSES

#: Samples in one pass through the network.
_CHUNK = 500


class FullBatch:
    """L(W) = (1/2N) Σ_i ‖f_i − y_i‖² + Σ_k (λ_k/2) ‖W_k‖² of one network on one set of samples, in float64.

    The network is copied and put into evaluation mode; the given one does not change. A point in weight space is a
    vector: all trainable parameters, flattened, in the order of definition.

    Args:
        model: the network; its trainable parameters are the variables.
        inputs: (samples, ...), of any floating type.
        labels: (samples,), integers.
        decays: λ_k of each trainable parameter by its name; others do not decay.
        loss: the data term in place of the square loss, a key of `LOSSES`.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Float[Tensor, "samples *shape"],
        labels: Int[Tensor, " samples"],
        decays: Mapping[str, float],
        loss: str = "square",
    ):
        self.model = copy.deepcopy(model).double().eval()
        self.inputs, self.labels, self.loss = inputs.double(), labels, LOSSES[loss]
        self.parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.decays = {name: decays.get(name, 0.0) for name in self.parameters}
        #: λ_k of every entry of a point
        self.decay_vector = torch.cat([torch.full_like(p, self.decays[name]).flatten() for name, p in self._items()])

    def _items(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, p.detach()) for name, p in self.parameters.items())

    @property
    def point(self) -> Float[Tensor, " parameters"]:
        """A copy of the network's weights, as a point."""
        return torch.cat([p.flatten() for _, p in self._items()])

    @torch.no_grad()
    def move_to(self, point: Float[Tensor, " parameters"]) -> None:
        """Sets the network's weights to a point."""
        for p, values in zip(self.parameters.values(), self.split(point).values(), strict=True):
            p.copy_(values)

    def split(self, point: Float[Tensor, " parameters"]) -> dict[str, Tensor]:
        """Splits a point into parameters, by name, each in its shape."""
        sizes = [p.numel() for p in self.parameters.values()]
        pieces = zip(self.parameters.items(), point.split(sizes), strict=True)
        return {name: piece.view_as(p) for (name, p), piece in pieces}

    def chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields inputs and labels in chunks small enough for the memory of a backward pass."""
        return zip(self.inputs.split(_CHUNK), self.labels.split(_CHUNK), strict=True)

    def data_gradient(self) -> tuple[float, Float[Tensor, " parameters"]]:
        """The data term at the current weights, and its gradient."""
        gradient = torch.zeros_like(self.decay_vector)
        value = 0.0
        for inputs, labels in self.chunks():
            loss = self.loss(self.model(inputs), labels) / len(self.labels)
            pieces = torch.autograd.grad(
                loss, list(self.parameters.values()), allow_unused=True, materialize_grads=True
            )
            gradient += torch.cat([piece.flatten() for piece in pieces])
            value += loss.item()
        return value, gradient

    def __call__(self, point: Float[Tensor, " parameters"]) -> tuple[float, Float[Tensor, " parameters"]]:
        """Moves the network to a point and returns L and ∇L there."""
        self.move_to(point)
        value, gradient = self.data_gradient()
        decayed = self.decay_vector * point
        return value + (point @ decayed).item() / 2, gradient + decayed
