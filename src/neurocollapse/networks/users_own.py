"""Builds networks by a name with a colon: the user's own, module:function, and those of libraries."""

import inspect
from collections.abc import Callable

from torch import nn

from .._errors import NetworkError, did_you_mean
from .._imports import call_users, users_function
from .by_name import LIBRARIES, build_by_name, is_by_name

#: The names of the networks that `build_network` knows.
BUILT_IN = ("convnet", "mlp", "resnet18", "vgg11")


def call_builder(name: str, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Calls the user's `module:function` and returns its network, whatever its head. Raises `NetworkError`.

    It is called as function(input_shape, num_classes), or without arguments if it takes none. Models of libraries, such
    as `timm:resnet18`, are built by `build_by_name`.
    """
    if is_by_name(name):
        return build_by_name(name, input_shape, num_classes)
    if ":" not in name:
        raise NetworkError(
            f"there is no network {name!r}; choose {', '.join((*BUILT_IN, *LIBRARIES.values()))}, or your own as "
            f"module:function{did_you_mean(name, BUILT_IN)}"
        )
    function = users_function(name, "network", NetworkError)
    network = call_users(function, name, (input_shape, num_classes) if _takes_two(function) else (), NetworkError)
    if not isinstance(network, nn.Module):
        raise NetworkError(f"{name} returned {type(network).__name__}; it must return a torch.nn.Module")
    return network


def _takes_two(function: Callable[..., object]) -> bool:
    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError):  # it needs arguments, or has no signature
        return True
    try:
        inspect.signature(function).bind((), 0)
    except TypeError:
        return False
    return True
