"""Checks the types and shapes in the package's signatures at every call, at less cost than jaxtyping's own decorator.

That one binds every call's arguments and checks them twice, whatever the signature, which made the tests take twice as
long. Here shapes are bound only where a signature has some, and each value is checked once.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, Self, get_args

import jaxtyping
from beartype import beartype

jaxtyped = jaxtyping.jaxtyped


def install(package: str) -> None:
    """Checks all of a package that is not imported yet."""
    jaxtyping.jaxtyped = lambda typechecker: checked  # which the hook puts before every function and class
    jaxtyping.install_import_hook(package, "beartype.beartype")


def checked(target: Any) -> Any:
    if inspect.isclass(target):
        if dataclasses.is_dataclass(target) and "__init__" in vars(target):
            init, plain = target.__init__, inspect.unwrap(target.__init__)
            target.__init__ = checked(plain)
            if plain is not init:  # what the package says of mistaken calls comes first
                from neurocollapse._errors import checks_arguments

                checks_arguments(target)
        return target
    if isinstance(target, classmethod | staticmethod):
        return type(target)(checked(target.__func__))
    if isinstance(target, property):
        return property(*(part and checked(part) for part in (target.fget, target.fset, target.fdel)))
    return checked_function(target)


def checked_function(function: Callable) -> Callable:
    """Less each annotation with `Self`: beartype knows what that is only where it decorates the whole class."""
    written = function.__annotations__
    hints = {name: resolved(hint, function.__globals__) for name, hint in written.items()}
    function.__annotations__ = {name: hint for name, hint in hints.items() if Self not in (hint, *get_args(hint))}
    wrapper = beartype(function)
    function.__annotations__ = written
    return jaxtyped(wrapper, typechecker=None) if any(map(has_shape, hints.values())) else wrapper


def resolved(hint: Any, names: dict[str, Any]) -> Any:
    """The hint that a string stands for; any at all where its names are not there, such as under TYPE_CHECKING."""
    try:
        return eval(hint, names) if isinstance(hint, str) else hint
    except Exception:
        return Any


def has_shape(hint: Any) -> bool:
    if isinstance(hint, list):  # of the arguments of a Callable
        return any(map(has_shape, hint))
    if inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(map(has_shape, get_args(hint)))
