"""Imports point only downward through the floors of the package."""

import ast
from pathlib import Path

import pytest

import neurocollapse

PACKAGE = Path(neurocollapse.__file__).parent

# From the ground up: what stands earlier never imports what stands later. CONTRIBUTING.md shows the same list.
FLOORS = [
    "_version",
    "_errors",
    "_schema",
    "_files",
    "_html",
    "_progress",
    "_imports",
    "geometry",
    "statistics",
    "metrics",
    "networks",
    "datasets",
    "measuring",
    "training",
    "theory",
    "sweeps",
    "integrations",
    "claims",
    "reports",
    "cli",
    "__main__",
]
FLOOR = {name: height for height, name in enumerate(FLOORS)}


def top_module(path: Path) -> str:
    """`metrics` for both metrics.py and metrics/table.py: a subpackage is one room, free to import within itself."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(source: str, package: str) -> set[str]:
    """Modules of neurocollapse that a source file, itself in `package`, imports anywhere: inside functions too."""
    full_names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            full_names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: 1 - node.level or None] if node.level else []
            origin = ".".join([*parents, *filter(None, [node.module])])
            full_names |= {f"{origin}.{alias.name}" for alias in node.names}
    parts = [name.split(".") for name in full_names]
    return {name[1] if len(name) > 1 else "" for name in parts if name[0] == "neurocollapse"}


def complaints(module: str, imported: set[str]) -> list[str]:
    own = FLOOR[module]
    return [
        f"{module} (floor {own}) imports {other or 'the package itself'} (floor {FLOOR.get(other, 'unknown')})"
        for other in sorted(imported - {module})
        if FLOOR.get(other, own) >= own
    ]


SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_point_downward(path):
    module = top_module(path)
    assert module in FLOOR, f"{module} has no floor: place it in FLOORS in {Path(__file__).name}"
    package = ".".join(("neurocollapse", *path.relative_to(PACKAGE).parts[:-1]))
    assert not complaints(module, imports_of(path.read_text(encoding="utf-8"), package))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("geometry", "import neurocollapse.metrics"),
        ("geometry", "def f():\n    from neurocollapse.training import train"),
        ("geometry", "from .statistics import Statistics"),
        ("statistics", "from . import metrics"),
        ("networks", "from neurocollapse import datasets"),
        ("metrics", "from neurocollapse import measure"),
        ("metrics", "import neurocollapse as nc"),
    ],
)
def test_an_import_upward_sideways_or_through_the_lazy_names_is_found(module, source):
    assert len(complaints(module, imports_of(source, "neurocollapse"))) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("cli", "from neurocollapse import reports, sweeps"),
        ("metrics", "from ..geometry import simplex_etf\nfrom .table import render\nfrom . import table"),
        ("metrics", "import torch, statistics\nfrom collections import abc"),
    ],
)
def test_an_import_downward_or_from_elsewhere_is_allowed(module, source):
    package = "neurocollapse.metrics" if module == "metrics" else "neurocollapse"
    assert not complaints(module, imports_of(source, package))
