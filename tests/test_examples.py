"""Every example runs, on little data, and prints what it promises."""

import json
import re
import runpy
import sys
import warnings
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from neurocollapse import CaptureWarning

FOLDER = Path(__file__).parents[1] / "examples"
NUMBER = r"\d+\.\d+(e[-+]\d+)?"

#: arguments, and what must be printed
EXAMPLES = {
    "01_measure_features": ("", rf"0.0001 +{NUMBER} .* 0.00% +100.00%\n(.*\n)*Measurement: 2000 samples, 10 classes"),
    "02_measure_your_training_loop": ("--epochs 4 --every 2", rf"  2 +{NUMBER}  .*\n +4 +{NUMBER}  .*%\n$"),
    "03_resnet18": ("--samples 24 --size 32",
        rf"11.2 million(.*\n)*Measurement: 24 samples, 4 classes(.*\n)*layer3 +256 +{NUMBER}(.*\n)*fc +512 +{NUMBER}"),
    "04_torchmetrics": ("", rf"    5 +{NUMBER}% +({NUMBER}) +\2 .*\n\d+ numbers in all"),
    "05_lightning": ("--epochs 2 --every 2", rf"nc/weight_norms.1\n +1 +{NUMBER} "),
    "06_transformers": ("--samples 48 --epochs 2 --every 1",
        rf"history:\nepoch +1  nc/nc1 .*\nepoch +2  nc/nc1 +{NUMBER} "),
    "07_theory_along_training": ("--epochs 4 --every 2", rf"  2 +{NUMBER}  .*\n +4 +{NUMBER}  .*\n$"),
}  # fmt: skip


def test_every_example_is_run_here():
    assert {path.stem for path in FOLDER.glob("*.py")} == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name, tmp_path, monkeypatch, capsys):
    arguments, expected = EXAMPLES[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments.split()])
    with warnings.catch_warnings(action="ignore"):
        warnings.simplefilter("error", CaptureWarning)
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert re.search(expected, printed), printed
    assert not list(tmp_path.iterdir()), "an example leaves nothing behind"


# The notebook

NOTEBOOK = FOLDER / "08_notebook.ipynb"


def test_the_notebook_is_stored_without_outputs():
    assert list(FOLDER.glob("*.ipynb")) == [NOTEBOOK]
    cells = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert cells
    assert all((cell["outputs"], cell["execution_count"]) == ([], None) for cell in cells)


@pytest.mark.slow
def test_the_notebook_runs_and_what_it_shows_are_tables(tmp_path, monkeypatch):
    place = tmp_path / "here"
    place.mkdir()
    for variable in ("TMPDIR", "IPYTHONDIR"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(place)}})
    client.execute()  # raises where a cell does

    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = [output for output in outputs if output.output_type == "stream"]
    assert re.fullmatch(r"NC1 is 0\.29\d+, and on paper 0\.2916\n", "".join(output.text for output in printed))
    shown = [output.data for output in outputs if output.output_type == "execute_result"]
    assert sum("image/png" in data for data in shown) == 1
    tables = [data["text/html"] for data in shown if "text/html" in data]
    told = ("2000 samples, 10 classes", "finished at epoch", "train.nc1", "Sweep of 6 run(s)", "Theorem 2.3")
    assert len(tables) == len(told)
    assert all("<table" in table and expected in table for table, expected in zip(tables, told, strict=True))
    assert not list(place.iterdir()), "an example leaves nothing behind"
