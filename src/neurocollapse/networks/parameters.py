"""The parameters of a network: which are layers, how they are initialised, how they decay."""

import torch
from torch import nn

from .._errors import NetworkError


def layer_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Returns the trainable tensors of two or more dimensions, one per layer, in the order of definition."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad and p.ndim >= 2}


def initialize(model: nn.Module, initialization: str, norm: float) -> None:
    """Initialises the weights in place, with torch's global generator.

    `default` keeps PyTorch's weights; `kaiming` is He et al. (2015), normal with variance 2/fan_in; `norm` keeps the
    directions of PyTorch's weights and gives every weight tensor the Frobenius norm `norm`. Raises `NetworkError` for a
    layer of zeros, which has no direction.
    """
    for name, weight in layer_weights(model).items():
        with torch.no_grad():
            if initialization == "kaiming":
                nn.init.kaiming_normal_(weight, nonlinearity="relu")
            elif initialization == "norm":
                if not weight.any():
                    raise NetworkError(
                        f"{name} of {type(model).__name__} starts at zero, so it has no direction to keep at norm "
                        f"{norm:g}; choose the initialization default or kaiming, or start it elsewhere"
                    )
                weight.mul_(norm / torch.linalg.norm(weight))


def decays(model: nn.Module, classifier: nn.Linear, weight_decay: float, bias: str) -> dict[str, float]:
    """Returns the decay of every trainable parameter: λ, but 0 for the classifier's bias if `bias` is "free".

    Raises `NetworkError` if the classifier has no bias that could be "free" or "decayed".
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    own = next((name for name, p in trained.items() if p is classifier.bias), None)
    if own is None and bias in ("free", "decayed"):
        raise NetworkError(
            f"the last linear layer of {type(model).__name__}, {classifier}, has no bias that trains, so none can "
            f"be {'free of decay' if bias == 'free' else 'decayed'}; give it one, or ask for no bias"
        )
    return {name: 0.0 if bias == "free" and name == own else weight_decay for name in trained}
