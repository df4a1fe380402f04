"""The pages of docs/: their commands and snippets run and print what the pages show, and the built site is whole.

A page is its blocks of code, in order, in one folder and one namespace: `python` is run, or written to the file of its
title; of `console` the commands behind `$` that are neurocollapse's. What a `console` shows below a command, and a
`text` right after `python`, must be printed, but for digits and what `...` stands for. A comment before a block,
`<!-- not run: why -->` or `<!-- run in FILE -->`, keeps it from being run; then its options must exist.
"""

import ast
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest

import neurocollapse as nc
from neurocollapse.cli import COMMANDS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md"))}
RUN = [name for name, text in PAGES.items() if "```python" in text or "```console" in text]


@dataclass(frozen=True)
class Block:
    comment: str
    language: str
    title: str
    text: str

    @property
    def runs(self) -> bool:
        return not self.comment.startswith(("not run:", "run in "))


_BLOCK = re.compile(
    r'^(?:<!-- (?P<comment>[^\n]*) -->\n)?```(?P<language>\w*)(?: title="(?P<title>[^"]*)")?\n(?P<text>.*?)^```$',
    flags=re.MULTILINE | re.DOTALL,
)


def blocks(page: str) -> list[Block]:
    return [Block(**match.groupdict(default="")) for match in _BLOCK.finditer(page)]


def commands(console: str) -> Iterator[tuple[list[str], str]]:
    """The words of each command behind `$`, and what is shown below it."""
    for part in re.split(r"^\$ ", console, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        yield shlex.split(command, comments=True), shown


_PIECE = re.compile(
    r"(?P<gap>\s*\.\.\.\s*)|(?P<number>(?<![A-Za-z_\d.])[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?)|(?P<space>\s+)|(?P<other>.)"
)
_MEANS = {"gap": r".*?", "number": r"[-+]?(?:\d+(?:\.\d+)?(?:e[-+]?\d+)?|nan|inf)", "space": r"\s+"}


def is_printed(shown: str, printed: str) -> bool:
    """Whether `printed` has what is shown, with whatever digits.

    >>> is_printed("nc1 0.1 ... nc4 0", "nc1   2e-5  nc2 3  nc4 0"), is_printed("nc1 0", "nc2 0")
    (True, False)
    """
    pieces = (_MEANS.get(match.lastgroup or "", re.escape(match[0])) for match in _PIECE.finditer(shown.strip()))
    return re.search("".join(pieces), printed, flags=re.DOTALL) is not None


# ---- what people type


def typed(page: str) -> Iterator[list[str]]:
    """The words of every command of neurocollapse on a page, also in blocks that only show it."""
    for block in blocks(page):
        marker = r"\$ " if block.language == "console" else ""
        joined = block.text.replace("\\\n", " ")
        for line in re.findall(rf"^{marker}(neurocollapse .*)", joined, flags=re.MULTILINE):
            yield shlex.split(line, comments=True)


@pytest.mark.parametrize("name", PAGES)
def test_the_commands_and_their_options_exist(name, run):
    for _, command, *arguments in typed(PAGES[name]):
        if command == "--version":
            continue
        assert command in COMMANDS
        status, printed, _ = run(command, "--help")
        assert status == 0
        missing = [word for word in arguments if word.startswith("--") and f"{word} " not in printed]
        assert not missing, f"{command} has no {missing}"


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN)
def test_a_page_runs_and_prints_what_it_shows(name, tmp_path, monkeypatch, capsys, run):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": name}
    printed = None
    for block in blocks(PAGES[name]):
        if block.language == "python" and not block.runs:
            ast.parse(block.text)
        elif block.language == "python" and block.title:
            Path(block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            exec(compile(block.text, f"{name}.md", "exec"), names)
            printed = capsys.readouterr().out
        elif block.language == "text" and printed is not None:
            assert is_printed(block.text, printed), f"the page shows\n{block.text}\nbut it printed\n{printed}"
        elif block.language == "console" and block.runs:
            for (program, *words), shown in commands(block.text):
                if program == "neurocollapse":
                    status, out, said = run(*words)
                    assert status == 0, said
                    assert is_printed(shown, said + out), f"the page shows\n{shown}\nbut {words} printed\n{said + out}"


def test_what_is_run_elsewhere_is_there():
    elsewhere = re.findall(r"<!-- run in (.*?) -->", "\n".join(PAGES.values()))
    assert elsewhere
    assert all((ROOT / path).is_file() for path in elsewhere)


# ---- what is written from the package


def script(name: str) -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(DOCS / f"{name}.py")))


def test_the_page_of_metrics_is_that_of_the_table():
    assert script("metrics").page(PAGES["metrics"]) == PAGES["metrics"], "run python docs/metrics.py"


def test_every_metric_has_a_heading_and_words_of_its_own():
    headings = re.findall(r"^### (\w+)$", PAGES["metrics"], flags=re.MULTILINE)
    assert sorted(headings) == sorted(nc.METRICS)


def test_a_metric_that_has_no_place_on_the_page_is_named(monkeypatch):
    monkeypatch.setitem(nc.METRICS, "nc9", nc.METRICS["nc1"])
    with pytest.raises(ValueError, match=r"look at nc9$"):
        script("metrics").page(PAGES["metrics"])


@pytest.mark.slow
def test_the_pictures_are_drawn_and_shown(tmp_path):
    script("pictures").main(tmp_path)
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn == {path.name for path in (DOCS / "pictures").iterdir()}
    assert drawn == set(re.findall(r"\(pictures/(.*?)\)", PAGES["metrics"]))


def test_the_reference_has_every_public_name():
    documented = re.findall(r"^::: neurocollapse\.(\w+)$", PAGES["api"], flags=re.MULTILINE)
    assert sorted(documented) == sorted(set(nc.__all__) - {"__version__"})


def test_the_citation_is_that_of_the_file():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    for key in ("title", "version", "doi", "year", "collection-title", "start", "end", "given-names", "family-names"):
        for value in re.findall(rf"^[ -]*{key}: (.*)$", citation, flags=re.MULTILINE):
            assert value in PAGES["cite"], key
    assert f"version {nc.__version__}" in PAGES["cite"]


# ---- the site


@dataclass
class Page(HTMLParser):
    """What a page names, links to and loads."""

    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        self.loads += [given[name] for name in ("src", "srcset", "data", "poster") if name in given]
        if "href" in given:
            (self.links if tag in ("a", "area") else self.loads).append(given["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs", reason="make docs installs what builds the site")
    folder = tmp_path_factory.mktemp("site")
    # not --quiet, under which --strict does not hear of warnings
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, encoding="utf-8", env={**os.environ, "NO_COLOR": "1"})
    assert done.returncode == 0, done.stderr
    return folder


def pages_of(site: Path) -> dict[Path, Page]:
    found = {}
    for path in site.rglob("*.html"):
        found[path] = Page()
        found[path].feed(path.read_text(encoding="utf-8"))
    return found


@pytest.mark.slow
def test_every_link_of_the_site_leads_somewhere(site):
    pages = pages_of(site)
    assert {f"{name}.html" for name in PAGES} <= {path.name for path in pages}
    for path, page in pages.items():
        for link in [*page.links, *page.loads]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            start = site if parts.path.startswith("/") else path.parent  # only the page for what is not found has these
            target = (start / unquote(parts.path).lstrip("/")).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), f"{path.name}: {link}"
            if parts.fragment and target in pages and not parts.fragment.startswith("__"):  # those open menus
                assert unquote(parts.fragment) in pages[target].ids, f"{path.name}: {link}"


@pytest.mark.slow
def test_the_site_loads_nothing_from_elsewhere(site):
    for path, page in pages_of(site).items():
        for link in page.loads:
            assert not link.startswith("//"), f"{path.name} loads {link}"
            assert urlsplit(link).scheme in ("", "data"), f"{path.name} loads {link}"
    for path in site.rglob("*.css"):
        loaded = re.findall(r"""(?:url\(|@import )['"]?([^'")]+)""", path.read_text(encoding="utf-8"))
        assert not [link for link in loaded if re.match(r"(\w+:)?//", link)], path.name
    # What the theme's script may fetch, it fetches for these alone: diagrams, and the counters of a repository.
    text = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.html"))
    assert 'class="mermaid"' not in text
    assert 'data-md-component="source"' not in text


@pytest.mark.slow
def test_formulas_have_raised_and_lowered_letters(site):
    text = (site / "metrics.html").read_text(encoding="utf-8")
    assert "Tr(Σ<sub>W</sub> Σ<sub>B</sub>⁺)" in text
    assert "<sub>c'≠c</sub>" in text
    assert "<code>weight_norms.0</code>" in text
    reference = (site / "api.html").read_text(encoding="utf-8")
    assert "h − μ<sub>c</sub>" in reference
    assert "<blockquote>" not in reference, "an example of a docstring is not code"
