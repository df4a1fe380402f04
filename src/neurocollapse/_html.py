"""Formats values for people: as tables in notebooks, and in one line."""

from collections.abc import Iterable, Sequence, Sized
from dataclasses import fields
from html import escape
from typing import Any


class Brief:
    """A base of dataclasses (with `repr=False`) whose `repr` shows large values by their type and size alone."""

    def __repr__(self) -> str:
        shown = (f"{field.name}={_brief(getattr(self, field.name))}" for field in fields(self))  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(shown)})"


def _brief(value: Any, most: int = 100) -> str:
    kind = type(value).__name__
    if shape := getattr(value, "shape", None):
        return f"{kind}{tuple(shape)}"
    if isinstance(value, Sized) and not isinstance(value, str | Brief) and len(value) > 8:
        return f"{kind} of {len(value)}"
    text = repr(value)
    if len(text) <= most and "\n" not in text:
        return text
    if isinstance(value, str):
        return f"{text[: most - 4]}...{text[0]}"
    return f"{kind} of {len(value)}" if isinstance(value, Sized) else f"{kind}(...)"


def html_table(caption: str, rows: Iterable[Sequence[str]]) -> str:
    """Returns a table in HTML. In each row the first cell is a name, the second its value; others say more.

    All cells are escaped.

    >>> html_table("one & all", [("nc1", "0.5")])
    "<table><caption>one &amp; all</caption><tr><td style='text-align:left'>nc1</td>...0.5</td></tr></table>"
    """
    lines = "".join(f"<tr>{''.join(map(_cell, range(len(row)), row))}</tr>" for row in rows)
    return f"<table><caption>{escape(caption)}</caption>{lines}</table>"


def listed(values: Sequence[object], most: int = 8) -> str:
    """Returns the values as text, or of many values the first ones and the last.

    >>> listed(range(200))
    '0, 1, 2, 3, 4, 5, 6, ..., 199'
    """
    texts = list(map(str, values))
    return ", ".join(texts if len(texts) <= most else [*texts[: most - 1], "...", texts[-1]])


def _cell(place: int, text: str) -> str:
    return f"<td style='text-align:{'right' if place == 1 else 'left'}'>{escape(text)}</td>"
