"""Loads the user's own functions, named as module:function, and calls them; and imports what an extra brings."""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from ._errors import NeurocollapseError


def users_function(name: str, what: str, error: type[NeurocollapseError]) -> Callable[..., Any]:
    """Returns the function that `module:function` names, for a `what` such as network. Raises `error`."""
    module_name, _, function_name = name.partition(":")
    if module_name.partition(".")[0] in sys.stdlib_module_names:  # a file of that name would stand in for Python's own
        raise error(f"{module_name!r} of {what} {name!r} is a module of Python's own; rename your file")
    try:
        with _current_folder_first():
            module = importlib.import_module(module_name)
    except (Exception, SystemExit) as fault:  # the user's module may raise anything
        raise error(
            f"cannot import {module_name!r} for {what} {name!r} ({type(fault).__name__}: {fault}); "
            f"run from its folder, install it, or mend it"
        ) from fault
    function = getattr(module, function_name, None)
    if not callable(function):
        raise error(f"module {module_name!r} has no function {function_name!r}, asked for by {what} {name!r}")
    return function


def call_users(
    function: Callable[..., Any], name: str, arguments: tuple[Any, ...], error: type[NeurocollapseError]
) -> Any:
    """Calls a function of the user's own. Raises `error` for whatever it raises."""
    try:
        with _current_folder_first():
            return function(*arguments)
    except (Exception, SystemExit) as fault:
        called = ", ".join(map(str, arguments))
        raise error(f"{name} raised {type(fault).__name__}: {fault}; it is called as function({called})") from fault


def import_extra(module: str, extra: str, what: str, error: type[NeurocollapseError]) -> ModuleType:
    """Imports a module that an extra of this package brings. Raises `error`, which says how to install it."""
    try:
        return importlib.import_module(module)
    except Exception as fault:  # a build that does not fit PyTorch's raises what it likes
        remedy = "builds of it, torch and torchvision that fit one another, from one index"
        if isinstance(fault, ModuleNotFoundError):
            remedy = f"it with pip install 'neurocollapse[{extra}]'"
        raise error(
            f"{what} needs {module.partition('.')[0]}, which cannot be imported ({type(fault).__name__}: "
            f"{' '.join(str(fault).split())}); install {remedy}"
        ) from fault


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
