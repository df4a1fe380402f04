"""Formats values for notebooks."""

from collections.abc import Iterable, Sequence
from html import escape


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
