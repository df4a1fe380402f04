"""Tests whether a network is positively homogeneous of degree one, in its input and in every layer."""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .._errors import checks_arguments
from .modes import evaluation
from .parameters import layer_weights
from .wrappers import modules_by_name


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


@torch.no_grad()
def find_inhomogeneous(model: nn.Module, inputs: Float[Tensor, "samples *shape"]) -> str | None:
    """Names the first module g of a forward pass for which g(2x) is not 2 g(x); None if there is none.

    Of a module with parts, which come before it, it is an operation of its own. Modules of several inputs are passed
    over. The model is in evaluation mode meanwhile.

    >>> find_inhomogeneous(nn.Sequential(nn.ReLU(), nn.Linear(2, 2)), torch.ones(1, 2))
    'Linear 1, which has a bias'
    """
    found: list[str] = []
    tried: list[nn.Module] = []  # the module that is being tried, whose parts have hooks too

    def hook(name: str) -> Callable[..., None]:
        def tries(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: object) -> None:
            taken = [*args, *kwargs.values()]
            if found or tried or len(taken) != 1 or not all(map(_is_real, (*taken, output))):
                return
            tried.append(module)
            with suppress(Exception):  # of a module that takes no other inputs
                given, scaled = cast(Tensor, output), module.forward(2 * cast(Tensor, taken[0]))
                missed = torch.linalg.norm(scaled - 2 * given)
                if missed > math.sqrt(torch.finfo(given.dtype).eps) * torch.linalg.norm(given):
                    found.append(_described(name, module))
            tried.clear()

        return tries

    with evaluation(model), ExitStack() as stack:
        for name, module in modules_by_name(model).items():
            stack.callback(module.register_forward_hook(hook(name), with_kwargs=True).remove)
        model(inputs)
    return found[0] if found else None


def _described(name: str, module: nn.Module) -> str:
    kind = type(module).__name__
    if module._modules:
        return f"an operation in {kind}.forward"
    has_bias = isinstance(module, nn.Linear | nn.modules.conv._ConvNd) and module.bias is not None
    return f"{kind} {name}".rstrip() + (", which has a bias" if has_bias else "")


def _is_real(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
