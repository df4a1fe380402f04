"""The package as a whole: what importing it loads, and its public names."""

import ast
import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path

import pytest

import neurocollapse as nc


def test_importing_the_package_loads_nothing_heavy():
    heavy = {"torch", "numpy", "pandas", "matplotlib", "rich", "tyro"}
    code = f"import sys, neurocollapse as nc; dir(nc); print(*({heavy} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == []


@pytest.mark.parametrize(("name", "module"), nc._HOME.items())
def test_public_name_is_listed_and_is_the_object_of_its_module(name, module):
    assert name in dir(nc)
    assert getattr(nc, name) is getattr(import_module(f"neurocollapse.{module}"), name)


def test_type_checkers_see_the_names_that_load_lazily():
    tree = ast.parse(Path(nc.__file__).read_text(encoding="utf-8"))
    declared = {
        alias.name: node.module.removeprefix("neurocollapse.")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("neurocollapse.")
        for alias in node.names
    }
    assert declared == nc._HOME


def test_no_module_hides_a_public_name():
    modules = {path.stem for path in Path(nc.__file__).parent.iterdir()}
    assert not modules & set(nc._HOME)


def test_version_is_that_of_the_installed_distribution():
    assert nc.__version__ == metadata.version("neurocollapse")


def test_unknown_name_is_named_in_the_error():
    with pytest.raises(AttributeError, match="module 'neurocollapse' has no attribute 'nonexistent'"):
        _ = nc.nonexistent
