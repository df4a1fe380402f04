"""A hook of MkDocs that formats formulas and examples, which Markdown does not.

Formulas outside code, such as W^c, Σ_W and ‖W_l‖_F², get superscripts and subscripts. They need neither a script nor a
font, and the source reads the same everywhere. The examples at the end of docstrings become code.
"""

import re
from collections.abc import Iterator
from typing import Any
from xml.etree.ElementTree import Element

from markdown import Markdown
from markdown.extensions import Extension
from markdown.preprocessors import Preprocessor
from markdown.treeprocessors import Treeprocessor

#: What may have an index: a letter that does not end a word, a Greek letter, a closing bar or parenthesis, an operator.
_BASE = r"(?:(?<![A-Za-z_])(?:(?:arg)?(?:max|min)|log|[A-Za-z])|[Α-ωḢṀẆ∇‖)])"
#: An index: one small letter or digit, a few capitals, a star, or whatever stands in braces or parentheses.
_INDEX = r"(?:\{[^{}]*\}|\((?:[^()]|\([^()]*\))*\)|[A-Z]{1,3}(?![a-z])|[a-zα-ω0-9](?![a-z])'?|\*)"
_FORMULA = re.compile(rf"({_BASE})((?:[_^]{_INDEX})+)")
_PART = re.compile(rf"([_^])({_INDEX})")
_TAGS = {"_": "sub", "^": "sup"}


def indexed(text: str) -> Iterator[str | Element]:
    """The text in pieces: what stays text, and an element for each index.

    >>> [piece if isinstance(piece, str) else (piece.tag, piece.text) for piece in indexed("‖W_l‖² and run_id")]
    ['‖W', ('sub', 'l'), '‖² and run_id']
    """
    done = 0
    for match in _FORMULA.finditer(text):
        yield text[done : match.end(1)]
        for mark, index in _PART.findall(match[2]):
            element = Element(_TAGS[mark])
            _fill(element, list(indexed(index[1:-1] if index.startswith("{") else index)), at=0)
            yield element
        done = match.end()
    yield text[done:]


def _fill(parent: Element, pieces: list[str | Element], at: int) -> None:
    """Put pieces of text and elements among the children of an element, before the one in place `at`."""
    for piece in pieces:
        if isinstance(piece, Element):
            parent.insert(at, piece)
            at += 1
        elif at:
            parent[at - 1].tail = (parent[at - 1].tail or "") + piece
        else:
            parent.text = (parent.text or "") + piece


class _Formulas(Treeprocessor):
    def run(self, root: Element) -> None:
        for element in list(root.iter()):
            if element.tag in ("code", "pre"):
                continue
            for place in range(len(element), -1, -1):  # from behind, since each insertion moves what follows
                holder, name = (element[place - 1], "tail") if place else (element, "text")
                text = getattr(holder, name)
                if text and ("_" in text or "^" in text):
                    setattr(holder, name, None)
                    _fill(element, list(indexed(text)), place)


class _Examples(Preprocessor):
    """Lines from >>> to the next empty one, outside other code, become a block of code."""

    def run(self, lines: list[str]) -> list[str]:
        done: list[str] = []
        in_code = in_example = False
        for line in lines:
            in_code ^= line.startswith("```")
            if not in_code and not in_example and line.startswith(">>> "):
                done.append("```pycon")
                in_example = True
            elif in_example and not line.strip():
                done.append("```")
                in_example = False
            done.append(line)
        return [*done, "```"] if in_example else done


class Rendering(Extension):
    def extendMarkdown(self, md: Markdown) -> None:
        md.preprocessors.register(_Examples(md), "examples", 29)  # before the blocks of code are read
        md.treeprocessors.register(_Formulas(md), "formulas", 1)  # after the table of contents has read the headings


def on_config(config: Any) -> Any:
    config.markdown_extensions.append(Rendering())
    return config
