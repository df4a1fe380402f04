"""Writes the page: one HTML file that contains everything and loads nothing from a network."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from typing import Any

#: `make plotly` renews the last, the part of plotly.js that draws plane plots.
_ASSETS = ("page.html", "style.css", "plotly-cartesian.min.js")

#: The scripts in the order in which the page reads them.
_SCRIPTS = (
    "state.js",
    "plots.js",
    "panels.js",
    "layers.js",
    "projection.js",
    "motion.js",
    "matrices.js",
    "player.js",
    "tables.js",
    "main.js",
)


def report_page(content: Mapping[str, Any]) -> str:
    """Returns the HTML of a report on `report_content`.

    Text enters the page as JSON without any <, and the document through `textContent`, so it is never read as markup.
    """
    assets = files(__package__) / "assets"
    read = {name: (assets / name).read_text(encoding="utf-8") for name in (*_ASSETS, *_SCRIPTS)}
    parts = {
        "title": escape(str(content["title"])),
        "style": read["style.css"],
        "plotly": read["plotly-cartesian.min.js"],
        "content": json.dumps(content, allow_nan=False, ensure_ascii=False, separators=(",", ":")).replace(
            "<", "\\u003c"
        ),
        "scripts": "\n".join(read[name] for name in _SCRIPTS),
    }
    pieces = read["page.html"].split("{{")
    filled = [pieces[0]]
    for piece in pieces[1:]:  # not `replace` for each, which would also replace within the text just inserted
        name, _, rest = piece.partition("}}")
        filled += [parts[name.strip()], rest]
    page = "".join(filled)
    return page.replace("{hashes}", _hashes_of_scripts(page), 1)


def _hashes_of_scripts(page: str) -> str:
    """Returns the hashes of the page's scripts, by which its policy names them: the browser runs no other."""
    scripts = re.findall("<script>(.*?)</script>", page, re.DOTALL)
    digests = [hashlib.sha256(script.encode()).digest() for script in scripts]
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
