"""Parses the words after a command's name with tyro, and describes a mistake in one line."""

import ast
import contextlib
import dataclasses
import difflib
import inspect
import io
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro

from .._errors import InputError
from .._files import path_of

_POSITIONAL = get_args(tyro.conf.Positional[int])[1]

_KINDS = {int: "whole numbers", float: "numbers"}
_METAVARS = {int: "INT", float: "FLOAT", str: "STR", Path: "PATH", bool: "{True,False}"}

#: The options that the words of the running command name.
_GIVEN: ContextVar[frozenset[str]] = ContextVar("given", default=frozenset())

_PATHS = tyro.constructors.ConstructorRegistry()


@_PATHS.primitive_rule
def _path(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[Path] | None:
    """Reads a path: ~ is the home folder, and an empty word, which `Path` reads as the current folder, is an error."""
    if info.type is not Path:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda words: path_of(words[0]),
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda path: [str(path)],
    )


@dataclasses.dataclass(frozen=True, eq=False)  # tyro hashes what annotates a type
class Presets:
    """Marks an option whose value gives other options their defaults."""

    defaults: Mapping[str, Mapping[str, Any]]
    """For each value, the defaults by the names of the options."""


@dataclasses.dataclass(frozen=True)
class Form:
    """A parameter that a command reads from the fields of dataclasses, whose names are the groups in the help."""

    kind: Callable[..., Any]
    """A function that makes the parameter from all the fields."""
    groups: tuple[type, ...]


def form(kind: type, groups: Mapping[str, Sequence[str]], left_out: Sequence[str] = (), **other_hints: Any) -> Form:
    """Returns a form that asks for a dataclass in groups of fields; the docstring of a field is its help."""
    hints, helps = get_type_hints(kind, include_extras=True) | other_hints, _docstrings(kind)

    def option(name: str) -> tuple[str, Any, Any]:
        default = getattr(kind, name)
        shown = plainly(name, hints[name], default)
        return name, Annotated[shown, tyro.conf.arg(help=helps[name])], dataclasses.field(default=default)

    made = [
        dataclasses.make_dataclass(title, [option(name) for name in names if name not in left_out], frozen=True)
        for title, names in groups.items()
    ]
    for group in made:
        group.__doc__ = ""  # make_dataclass makes one from the fields
    return Form(kind, tuple(made))


def _docstrings(kind: type) -> dict[str, str]:
    """Returns the docstrings below the fields of a class, each in one line, so that the help can wrap it."""
    (defined,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(defined, ast.ClassDef)
    found = {}
    for node, below in pairwise(defined.body):
        match node, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = " ".join(text.split())
    return found


def call_of(name: str, command: Callable[..., int], words: Sequence[str]) -> Callable[[], int]:
    """Returns the call that the words describe, or with `--help` one that prints the help. Raises `InputError`."""
    hints, forms = _hints(command)
    preset = _preset(hints, words)
    fields: list[tuple[str, Any, Any]] = []
    for key, parameter in inspect.signature(command).parameters.items():
        if key in forms:
            for group in forms[key].groups:
                own = {field.name for field in dataclasses.fields(group)}
                default = group(**{option: value for option, value in preset.items() if option in own})
                fields.append((group.__name__, tyro.conf.OmitArgPrefixes[group], _field(default)))  # type: ignore[misc, valid-type]
        else:
            default = preset.get(key, parameter.default)
            fields.append((key, plainly(key, hints[key], default), _field(default)))
    asked = dataclasses.make_dataclass(name, fields, kw_only=True, frozen=True)
    # tyro keeps a line break if the next line does not begin with a letter.
    asked.__doc__ = re.sub(r"\n {8,}(?=\S)", " ", inspect.cleandoc(command.__doc__ or ""))
    shown, said = _Page(), io.StringIO()
    try:
        with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(said):
            answers: Any = tyro.cli(
                asked, prog=f"neurocollapse {name}", args=words, config=(tyro.conf.FlagCreatePairsOff,), registry=_PATHS
            )
    except SystemExit as end:
        if not end.code:
            return partial(_print_help, shown.getvalue())
        wrong = _complaint(command, words) or " ".join(re.sub(r"[^\w\s!-~]", " ", said.getvalue()).split())
        raise InputError(f"{wrong}; see neurocollapse {name} --help") from None
    if repeated := _repeated(command, words):
        raise InputError(repeated)
    typed = dict(vars(answers))
    for key, form in forms.items():
        given = [vars(typed.pop(group.__name__)).items() for group in form.groups]
        typed[key] = form.kind(**dict(chain(*given)))
    return partial(_run, frozenset(option for option, _ in _chunks(words)), command, **typed)


def _run(options: frozenset[str], command: Callable[..., int], /, **typed: Any) -> int:
    before = _GIVEN.set(options)
    try:
        return command(**typed)
    finally:
        _GIVEN.reset(before)


def _preset(hints: Mapping[str, Any], words: Sequence[str]) -> Mapping[str, Any]:
    """Returns the defaults that a word chooses; none if there is no such option, or no such value."""
    said = dict(_chunks(words))
    for key, hint in hints.items():
        for extra in _unwrapped(hint)[1]:
            if isinstance(extra, Presets):
                return extra.defaults.get("".join(said.get(f"--{key}", [])), {})
    return {}


def plainly(name: str, hint: Any, default: Any) -> Any:
    """Adds to a type how the help shows it: without None, and without a default that says nothing."""
    bare, extras = _unwrapped(hint)
    shown: dict[str, Any] = {}
    if default is None or default is False or default == ():
        shown["help_behavior_hint"] = ""
    if _POSITIONAL in extras:
        several = " ..." if get_origin(bare) is tuple else ""
        shown["metavar"] = name.upper() if default is inspect.Parameter.empty else f"[{name.upper()}{several}]"
    elif type(None) in get_args(bare):
        (kind,) = (kind for kind in get_args(bare) if kind is not type(None))
        shown["metavar"] = _METAVARS[_unwrapped(kind)[0]]
    return Annotated[hint, tyro.conf.arg(**shown)] if shown else hint


class _Page(io.StringIO):
    """Keeps what is printed, and looks like the standard output to code that checks for a terminal."""

    def __init__(self) -> None:
        super().__init__()
        self._as = sys.stdout

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._as.encoding

    def isatty(self) -> bool:
        return self._as.isatty()


def _print_help(text: str) -> int:
    """Prints the help and wraps its paragraphs, which tyro prints in one line each; options are already wrapped."""
    width = shutil.get_terminal_size().columns
    for line in text.splitlines():
        print(textwrap.fill(line, width) if line[:1].isalpha() else line)
    return 0


def _field(default: Any) -> Any:
    return dataclasses.field() if default is inspect.Parameter.empty else dataclasses.field(default=default)


def _hints(command: Callable[..., int]) -> tuple[dict[str, Any], dict[str, Form]]:
    """Returns the types of a command's parameters, and the forms of those that have one."""
    hints = get_type_hints(command, include_extras=True)
    hints.pop("return")
    found = {key: [extra for extra in _unwrapped(hint)[1] if isinstance(extra, Form)] for key, hint in hints.items()}
    return hints, {key: forms[0] for key, forms in found.items() if forms}


def given(*names: str) -> list[str]:
    """Returns the options of these parameters that the words of the running command name, at whatever value."""
    options = [f"--{name.replace('_', '-')}" for name in names]
    return [option for option in options if option in _GIVEN.get()]


def refuse(reason: str, *names: str) -> None:
    """Raises `InputError` if one of these options, which would have no effect, was given."""
    if found := given(*names):
        raise InputError(f"{reason}, so {' and '.join(found)} would have no effect; leave out one or the other")


def read(hint: Any, word: str) -> Any:
    """Reads the word as a value of this type. Raises `InputError`, which says what a value looks like."""
    hint, _ = _unwrapped(hint)
    if hint is Path:
        return path_of(word)
    choices = get_args(hint)
    if get_origin(hint) is Literal:
        if word in choices:
            return word
        raise InputError(f"there are {', '.join(choices)}")
    if type(None) in choices:
        (kind,) = (kind for kind in choices if kind is not type(None))
        return None if word == "None" else read(kind, word)
    try:
        return hint(word)
    except ValueError:
        raise InputError(f"it takes {_KINDS[hint]}") from None


def _complaint(command: Callable[..., int], words: Sequence[str]) -> str | None:
    """Describes the first word that cannot be used, or the missing one; None if it finds no mistake."""
    places, options = _places_and_options(command)
    loose: list[str] = []
    for option, values in _chunks(words):
        hint = options.get(option)
        if hint is None and option:
            near = difflib.get_close_matches(option, options, n=1)
            return f"there is no option {option}{f' (did you mean {near[0]}?)' if near else ''}"
        bare, _ = _unwrapped(hint)
        many = get_origin(bare) is tuple
        used = len(values) if many else 0 if bare in (None, bool) else 1
        if len(values) < used:
            return f"{option} needs a value"
        if wrong := _unreadable(option, hint, values[:used]):
            return wrong
        loose += values[used:]
    hints = [_hints(command)[0][key] for key in places]
    several = any(get_origin(_unwrapped(hint)[0]) is tuple for hint in hints)
    if len(loose) > len(places) and not several:
        return f"{loose[len(places)]!r} belongs to no option"
    for key, hint in zip(places, hints, strict=True):
        if wrong := _unreadable(f"the {key}", hint, loose if several else loose[:1]):
            return wrong
    given = inspect.signature(command).parameters
    needed = [key for key in places[len(loose) :] if given[key].default is inspect.Parameter.empty]
    return f"the {needed[0]} is missing" if needed else None


def _unreadable(what: str, hint: Any, words: Sequence[str]) -> str | None:
    """Describes the first word that cannot be a value of this type, or an item of a tuple of it; None if all can be."""
    bare, _ = _unwrapped(hint)
    for word in words:
        try:
            read(get_args(bare)[0] if get_origin(bare) is tuple else hint, word)
        except ValueError as error:
            return f"{what} cannot be {word!r}: {error}"
    return None


def _places_and_options(command: Callable[..., int]) -> tuple[list[str], dict[str, Any]]:
    """Returns the names of a command's positional arguments, and its options with their types."""
    hints, forms = _hints(command)
    for key, form in forms.items():
        del hints[key]
        for group in form.groups:
            hints |= get_type_hints(group, include_extras=True)
    places = [key for key, hint in hints.items() if _POSITIONAL in _unwrapped(hint)[1]]
    return places, {f"--{key.replace('_', '-')}": hint for key, hint in hints.items() if key not in places}


def _repeated(command: Callable[..., int], words: Sequence[str]) -> str | None:
    """Describes the first list that is given twice, of which tyro would use the last; None if there is none.

    Of a single value the last one counts, as in other commands: so a script's options can be changed.
    """
    _, options = _places_and_options(command)
    given: dict[str, list[str]] = {}
    for option, values in _chunks(words):
        if get_origin(_unwrapped(options.get(option))[0]) is tuple and option in given:
            joined = " ".join([option, *given[option], *values])
            return f"{option} is given twice, and only the last would count; give its values at once: {joined}"
        given[option] = values
    return None


def _chunks(words: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yields each option with the words up to the next one; words before the first option have an empty name."""
    option = ""
    values: list[str] = []
    for word in words:
        if re.match(r"--?[a-zA-Z]", word) and word.lower() not in ("-inf", "-nan", "-infinity"):
            yield option, values
            option, equals, value = word.partition("=")
            option, values = option.replace("_", "-"), [value] if equals else []
        else:
            values.append(word)
    yield option, values


def _unwrapped(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    extras = getattr(hint, "__metadata__", ())
    return (hint.__origin__ if extras else hint), extras
