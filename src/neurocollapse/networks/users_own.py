"""Builds the user's own networks, named as module:function."""

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from .._errors import NetworkError, did_you_mean

#: The names of the networks that `build_network` knows.
BUILT_IN = ("convnet", "mlp")


def call_builder(name: str, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Calls the user's `module:function` and returns its network, whatever its head. Raises `NetworkError`.

    It is called as function(input_shape, num_classes), or without arguments if it takes none.
    """
    if ":" not in name:
        raise NetworkError(
            f"there is no network {name!r}; choose {', '.join(BUILT_IN)}, or your own as module:function"
            f"{did_you_mean(name, BUILT_IN)}"
        )
    with _current_folder_first():
        function = _load_function(name)
    arguments = (input_shape, num_classes) if _takes_two(function) else ()
    try:
        with _current_folder_first():
            network = function(*arguments)
    except (Exception, SystemExit) as error:
        called = ", ".join(map(str, arguments))
        raise NetworkError(
            f"{name} raised {type(error).__name__}: {error}; it is called as function({called})"
        ) from error
    if not isinstance(network, nn.Module):
        raise NetworkError(f"{name} returned {type(network).__name__}; it must return a torch.nn.Module")
    return network


@contextmanager
def _current_folder_first() -> Iterator[None]:
    """Lets the user's own code import from the current folder first, as `python -m` does.

    Afterwards that folder comes last, for what the user's code imports later: a random.py there must not stand in for
    Python's own when a library imports it.
    """
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
        if here not in sys.path:
            sys.path.append(here)


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


def _load_function(name: str) -> Callable[..., object]:
    module_name, _, function_name = name.partition(":")
    if module_name.partition(".")[0] in sys.stdlib_module_names:  # a file of that name would stand in for Python's own
        raise NetworkError(f"{module_name!r} of network {name!r} is a module of Python's own; rename your file")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # the user's module may raise anything
        raise NetworkError(
            f"cannot import {module_name!r} for network {name!r} ({type(error).__name__}: {error}); "
            f"run from its folder, install it, or mend it"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise NetworkError(f"module {module_name!r} has no function {function_name!r}, asked for by network {name!r}")
    return function
