"""The errors that the package raises on purpose, the warning of its measurements, and the check of arguments.

All derive from `NeurocollapseError`, and each also from `ValueError` or `OSError`. The message says what was wrong,
what the package got and what to do.
"""

import difflib
import errno
import functools
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    import inspect

F = TypeVar("F", bound=Callable[..., Any])


class NeurocollapseError(Exception):
    """The base of every error that the package raises on purpose. Its message is `printable`."""

    def __str__(self) -> str:
        return printable(super().__str__())


class InputError(NeurocollapseError, ValueError):
    """An argument whose value cannot be used."""


class InputTypeError(InputError, TypeError):
    """An argument of a type that cannot be used."""


class SampleError(InputError):
    """A sample that cannot be used; `sample` is its index in the data, or its number among the rows."""

    def __init__(self, what: str, sample: int | str, fault: str):
        super().__init__(what, sample, fault)
        self.sample = sample

    def named(self, sample: str) -> "SampleError":
        """Returns the same error with the sample's index in the data, or another name."""
        return SampleError(self.args[0], sample, self.args[2])

    def __str__(self) -> str:
        return f"{self.args[0]} of sample {self.sample} {self.args[2]}"


class DatasetError(NeurocollapseError, ValueError):
    """A data set that does not exist, cannot be read, or lacks something."""


class NetworkError(NeurocollapseError, ValueError):
    """A network that cannot be built or used as requested."""


class DivergedError(NeurocollapseError, ValueError):
    """A run whose objective became infinite or NaN."""


class FeatureFileError(NeurocollapseError, ValueError):
    """A file of features that cannot be read."""


class CheckpointError(NeurocollapseError, ValueError):
    """Checkpoints or a trajectory that cannot be found or read, or that belong to another model."""


class RunError(NeurocollapseError, ValueError):
    """A folder of runs that does not exist, is damaged, or belongs to another run."""


class VerificationError(NeurocollapseError, ValueError):
    """A network or run to which the theory does not apply, or that cannot be verified as requested."""


class FlowError(NeurocollapseError, ValueError):
    """A gradient flow whose solver cannot reach the requested tolerance."""


class FeatureStoreError(NeurocollapseError, OSError):
    """A temporary file of captured features that cannot be written; nothing of it is left on the disk."""


#: What to do about the errors of the system that a user can tell apart.
_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room, or name another folder"),
    **dict.fromkeys((errno.ENOLCK, errno.ENOTSUP), "name a folder on a file system with locks"),
    errno.EEXIST: "name another file or folder",
}


class WriteError(NeurocollapseError, OSError):
    """A file that cannot be written; the message names it."""

    def __init__(self, path: Path, error: OSError):
        super().__init__(error.errno, error.strerror or str(error), str(path))

    def __str__(self) -> str:
        remedy = _REMEDIES.get(self.errno or 0, "name a folder that can be written to")
        return printable(f"{self.filename} cannot be written ({self.strerror}); {remedy}")


class CaptureWarning(UserWarning):
    """A reason why a measurement may differ from that of the model on the unchanged data."""


def printable(text: str) -> str:
    r"""Makes visible what a terminal would obey or hide, such as the escapes in a file's name; lines stay lines.

    >>> print(printable("a\x1b[31mb"))
    a\x1b[31mb
    """
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """Returns the nearest of the known words, to append to a message; an empty string if none is near.

    >>> "there is no key 'nc_1'" + did_you_mean("nc_1", ["nc1", "nc4"])
    "there is no key 'nc_1' (did you mean 'nc1'?)"
    """
    close = difflib.get_close_matches(str(word).lower(), list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def check_names(taker: str, given: Iterable[str], known: Iterable[str], what: str = "argument") -> None:
    """Raises `InputTypeError` for a name that a function or class does not take, with the nearest that it takes."""
    known = list(known)
    for name in given:
        if name not in known:
            raise InputTypeError(
                f"{taker} has no {what} {name!r}{did_you_mean(name, known)}; there are {', '.join(known)}"
            )


def checks_arguments(called: F) -> F:
    """Makes a public function or class raise `InputTypeError` for an unknown argument, or one of a wrong type.

    Types are checked as far as a hint names classes: not the shapes of tensors and not the items of containers. Where a
    number is taken, the function receives Python's own: see `as_plain`.
    """
    if isinstance(called, type):
        called.__init__ = checks_arguments(called.__init__)  # type: ignore[misc]
        return called

    @functools.wraps(called)
    def checked(*args: Any, **kwargs: Any) -> Any:
        given = _check_call(called, args, kwargs)
        return called(*given.args, **given.kwargs)

    return checked  # type: ignore[return-value]


def as_plain(value: Any) -> Any:
    """Returns a number of NumPy, or in an array or a tensor without axes, as Python's own; any other value as it is.

    >>> import numpy as np
    >>> as_plain(np.int32(3)), as_plain(np.array(0.5)), as_plain((np.float32(2), None))
    (3, 0.5, (2.0, None))
    """
    if type(value) is tuple:
        return tuple(map(as_plain, value))
    if getattr(value, "ndim", None) == 0:
        with suppress(AttributeError, RuntimeError):  # of a tensor without values
            value = value.item()
    if isinstance(value, Real) and not isinstance(value, int | float):
        return int(value) if isinstance(value, Integral) else float(value)
    return value


def _check_call(called: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> "inspect.BoundArguments":
    taker = called.__qualname__.removesuffix(".__init__")
    signature, kinds, numbers, is_open = _signature(called)
    check_names(taker, () if is_open else kwargs, kinds)
    kwargs = {name: as_plain(value) if name in numbers else value for name, value in kwargs.items()}
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise InputTypeError(f"{taker}: {error}; it takes {', '.join(kinds)}") from None
    for name, value in bound.arguments.items():
        if name in numbers:
            bound.arguments[name] = value = as_plain(value)
        allowed = kinds.get(name, ())
        if allowed and (not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed)):
            shown = f"{value!r} of type " if isinstance(value, _SHOWN) and len(repr(value)) < 60 else ""
            got = f"got {shown}{type(value).__name__}{_INSTEAD.get(name, '')}"
            raise InputTypeError(f"{taker}: {name} must be {_either(allowed)}, {got}")
    return bound


@functools.cache
def _signature(called: Callable[..., Any]) -> tuple["inspect.Signature", dict[str, tuple[type, ...]], set[str], bool]:
    """Returns a signature; for each argument, the classes that it may be of, none if they cannot be checked; and which
    arguments may be numbers.

    The last value says whether it takes arguments by any name, `**options: Any`, which somebody else checks.
    """
    import inspect  # not for the commands that call no public function

    signature, hints = inspect.signature(called), get_type_hints(called)
    kinds: dict[str, tuple[type, ...]] = {}
    options: dict[str, tuple[type, ...]] = {}  # of a TypedDict, which the function checks
    is_open = False
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD and hints[name] is Any:
            is_open = True
        elif parameter.kind is parameter.VAR_KEYWORD:
            fields = get_type_hints(get_args(hints[name])[0])  # Unpack[a TypedDict]
            options = {field: _classes(hint) for field, hint in fields.items()}
        elif name != "self":
            kinds[name] = _classes(hints[name])
    numbers = {name for name, classes in (kinds | options).items() if {Integral, Real, bool} & {*classes}}
    return signature, kinds | dict.fromkeys(options, ()), numbers, is_open


def _classes(hint: Any) -> tuple[type, ...]:
    """Returns the classes of which a hint is the union; none if it is anything else."""
    origin, parts = get_origin(hint) or hint, get_args(hint)
    if origin in (Union, UnionType):
        found = [_classes(part) for part in parts]
        return sum(found, ()) if all(found) else ()
    if origin is Literal:
        return tuple(map(type, parts))
    origin = getattr(origin, "array_type", origin)  # of a jaxtyping shape
    # What is read once is checked where it is read; a protocol, as in NumPy's ArrayLike, is nobody's class.
    if not isinstance(origin, type) or origin is Iterable or getattr(origin, "_is_protocol", False):
        return ()
    return (_WIDER.get(origin, origin),)


def _either(kinds: tuple[type, ...]) -> str:
    """Returns the classes in words, such as `a path or None`."""
    words = dict.fromkeys(_WORDS.get(kind.__name__, f"a {kind.__name__}") for kind in kinds)
    if Path in kinds:
        words.pop("a string", None)
    if len(words) > 1:
        words.pop("None", None)  # the default
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


#: Where an argument leads that was given something else.
_INSTEAD = {
    "head": "; a matrix is the weight of measure(features, labels, weight, bias)",
    "recorder": "; pass nc.Recorder(folder, config=...)",
}

#: The kinds of values that a message shows.
_SHOWN = (str, int, float, dict, list, tuple, type(None))

#: What is as good as a class in a hint: numbers of NumPy, arrays and generators in place of sequences.
_WIDER: dict[type, type] = {int: Integral, float: Real, tuple: Iterable, list: Iterable, Sequence: Iterable}

_WORDS = {
    "Path": "a path",
    "str": "a string",
    "Integral": "an integer",
    "Real": "a number",
    "bool": "True or False",
    "NoneType": "None",
    "Iterable": "a sequence",
    "Collection": "a sequence",
    "Mapping": "a dict",
    "Module": "a torch.nn.Module",
    "Optimizer": "an optimizer",
    "Tensor": "a tensor",
    "UnconstrainedModel": "an UnconstrainedModel",
}
