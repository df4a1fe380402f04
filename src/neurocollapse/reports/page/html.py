"""The page itself: one file with everything in it, which asks nothing of a network."""

import json
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from typing import Any

from plotly.offline import get_plotlyjs

#: In the order in which they are read.
_SCRIPTS = (
    "state.js",
    "plots.js",
    "panels.js",
    "projection.js",
    "motion.js",
    "matrices.js",
    "player.js",
    "tables.js",
    "main.js",
)


def report_page(content: Mapping[str, Any]) -> str:
    """The HTML of a report on `report_content`.

    Text reaches the page as JSON in which no < is left, and the document by `textContent`: none of it is ever markup.
    """
    assets = files(__package__) / "assets"
    read = {name: (assets / name).read_text(encoding="utf-8") for name in ("page.html", "style.css", *_SCRIPTS)}
    parts = {
        "title": escape(str(content["title"])),
        "style": read["style.css"],
        "plotly": get_plotlyjs(),
        "content": json.dumps(content, allow_nan=False, ensure_ascii=False, separators=(",", ":")).replace(
            "<", "\\u003c"
        ),
        "scripts": "\n".join(read[name] for name in _SCRIPTS),
    }
    pieces = read["page.html"].split("{{")
    filled = [pieces[0]]
    for piece in pieces[1:]:  # not `replace` for each, which would look for places within what was just put in
        name, _, rest = piece.partition("}}")
        filled += [parts[name.strip()], rest]
    return "".join(filled)
