"""Checks values that were read from a file against the types that they must have."""

import dataclasses
import json
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ._errors import InputError, InputTypeError

#: What `to_json` writes for the numbers that JSON lacks.
NON_FINITE = ("nan", "inf", "-inf")

#: What is measured as a list of numbers; everything else is one number.
_LISTS = ("weight_norms", "class_counts", "classifier_sum")

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}


def typed(hint: Any, value: Any, key: str = "it") -> Any:
    """Returns a value of JSON as the type that it must have; `key` names it in messages.

    A dataclass is made from an object, whose other keys are ignored; fields with defaults may be absent. A dictionary
    of hints describes an object with at least these keys, whose other values stay as they are. The strings that
    `to_json` writes become numbers again where a number is due. Raises `InputTypeError`, and `InputError` for a value
    that is not among the choices of a `Literal`.

    >>> typed(dict[str, float], {"nc1": "nan", "nc3": 2})
    {'nc1': nan, 'nc3': 2.0}
    >>> typed({"epoch": int}, {"epoch": [1]}, "line 3")
    Traceback (most recent call last):
    neurocollapse._errors.InputTypeError: line 3: epoch must be a whole number, got [1]
    """
    if type(value) is hint:
        return value
    inner = get_args(hint)
    match get_origin(hint) or hint:
        case Mapping():
            return {**_object(value, key), **_fields(hint, hint.keys(), value, key)}
        case kind if dataclasses.is_dataclass(kind):
            hints = get_type_hints(kind)
            required = {field.name for field in dataclasses.fields(kind) if _is_required(field)}
            return kind(**_fields(hints, required, _object(value, key), key))  # type: ignore[operator]
        case kind if kind is Any:
            return value
        case kind if kind is Literal:
            if value not in inner:
                raise InputError(f"{key} must be {' or '.join(map(repr, inner))}, got {_shown(value)}")
            return value
        case kind if kind in (Union, UnionType):
            return _one_of(inner, value, key)
        case kind if kind in (dict, Mapping):
            return {name: typed(inner[1], each, _within(key, name)) for name, each in _object(value, key).items()}
        case kind if kind in (list, tuple):
            if not isinstance(value, list | tuple):
                raise InputTypeError(f"{key} must be a list, got {_shown(value)}")
            return kind(typed(inner[0], each, f"{key}[{place}]") for place, each in enumerate(value))
        case kind if kind is float and (type(value) in (int, float) or value in NON_FINITE):
            try:
                return float(value)
            except OverflowError:
                raise InputTypeError(f"{key} is an integer beyond any float") from None
    raise InputTypeError(f"{key} must be {_WORDS[hint]}, got {_shown(value)}")


def parsed(content: bytes, line: int = 1) -> Any:
    """Returns a value of JSON; the content begins in this line of a file. Raises `InputError` if it is no JSON.

    >>> parsed(b'{"seed": 1, "seed": 2}')
    Traceback (most recent call last):
    neurocollapse._errors.InputError: it has 'seed' twice
    """
    try:
        return json.loads(content.decode(), object_pairs_hook=_without_duplicates)
    except json.JSONDecodeError as error:
        cut = error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated")
        place = f"line {line + error.lineno - 1}"
        fault = f"{place} is cut off" if cut else f"{place} is no JSON from character {error.colno} on"
    except UnicodeDecodeError as error:
        fault = f"line {line + content[: error.start].count(10)} is no text in UTF-8"
    except RecursionError:
        fault = f"line {line} has too many brackets within one another"
    except InputError:
        raise
    except ValueError:  # Python reads no integer of more digits than sys.get_int_max_str_digits()
        fault = f"line {line} has an integer beyond any float"
    raise InputError(fault)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise InputError(f"it has {next(name for name in names if names.count(name) > 1)!r} twice")
    return values


def measured_type(name: str) -> Any:
    """Returns the type of what is measured under this name, where null is a number that could not be computed."""
    return list[float] if name in _LISTS else float | None


def typed_line(hint: Any, line: bytes, number: int) -> Any:
    """Returns the value in a line of a .jsonl file as the type that it must have: see `typed`. Raises `InputError`."""
    return typed(hint, parsed(line, number), f"line {number}")


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _object(value: Any, key: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputTypeError(f"{key} must be an object, got {_shown(value)}")
    return value


def _fields(hints: Mapping[str, Any], required: Any, value: Any, key: str) -> dict[str, Any]:
    values = _object(value, key)
    if absent := sorted(set(required) - values.keys()):
        raise InputTypeError(f"{key} has no {absent[0]!r}")
    return {name: typed(hint, values[name], _within(key, name)) for name, hint in hints.items() if name in values}


def _one_of(choices: tuple[Any, ...], value: Any, key: str) -> Any:
    if value is None and NoneType in choices:
        return None
    others = [choice for choice in choices if choice is not NoneType]
    if len(others) == 1:
        return typed(others[0], value, key)
    for choice in others:
        try:
            return typed(choice, value, key)
        except InputError:
            continue
    wanted = " or ".join(_WORDS.get(choice, "an object") for choice in choices)
    raise InputTypeError(f"{key} must be {wanted}, got {_shown(value)}")


def _within(key: str, name: str) -> str:
    """Returns the name of a part. The whole, which is called `it`, goes without saying.

    >>> _within(_within("it", "config"), "epochs"), _within("line 3", "epoch")
    ('config.epochs', 'line 3: epoch')
    """
    if key == "it":
        return name
    return f"{key}: {name}" if " " in key and ":" not in key else f"{key}.{name}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:56]} ..."
