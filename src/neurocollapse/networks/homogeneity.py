"""Tests whether a network is positively homogeneous of degree one, in its input and in every layer."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .._errors import checks_arguments
from .parameters import layer_weights


@dataclass(frozen=True)
class Homogeneity:
    """The relative deviations ‖f(scaled) − αf‖/‖αf‖, the largest over the scales, for the input and for each layer."""

    by_input: float
    by_layer: dict[str, float]

    def holds(self, tolerance: float = 1e-4) -> bool:
        """Whether every deviation is within `tolerance`; float32 rounding alone makes about 1e-6."""
        return all(deviation <= tolerance for deviation in (self.by_input, *self.by_layer.values()))


@torch.no_grad()
@checks_arguments
def check_homogeneous(
    model: nn.Module, inputs: Float[Tensor, "samples *shape"], scales: tuple[float, ...] = (0.5, 2.0, 3.0)
) -> Homogeneity:
    """Measures whether f(αx) = αf(x), and whether scaling one layer W_l by α scales f by α, for positive α.

    The model is left unchanged. A positive answer is evidence on these inputs, not a proof. If the outputs are all
    zero there is no evidence, and the deviations are nan.
    """
    found = [(tensor, tensor.clone()) for tensor in (*model.parameters(), *model.buffers())]

    def deviation(scaled: Tensor, alpha: float) -> float:
        return (torch.linalg.norm(scaled - alpha * outputs) / torch.linalg.norm(alpha * outputs)).item()

    def largest(deviations: Iterator[float]) -> float:
        return max(deviations, key=lambda value: (math.isnan(value), value))

    def scaled_layer(weight: Tensor, alpha: float) -> Tensor:
        original = weight.clone()
        weight.mul_(alpha)
        scaled = model(inputs)
        weight.copy_(original)
        return scaled

    try:
        outputs = model(inputs)
        by_input = largest(deviation(model(alpha * inputs), alpha) for alpha in scales)
        by_layer = {
            name: largest(deviation(scaled_layer(weight, alpha), alpha) for alpha in scales)
            for name, weight in layer_weights(model).items()
        }
    finally:  # also on an error, and including the running statistics of normalisation layers
        for tensor, value in found:
            tensor.copy_(value)
    return Homogeneity(by_input, by_layer)
