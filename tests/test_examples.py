"""Every example runs, on little data, and prints what it promises."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples"
NUMBER = r"\d+\.\d+(e[-+]\d+)?"

#: arguments, and what must be printed
EXAMPLES = {
    "01_measure_features": ("", rf"0.0001 +{NUMBER} .* 0.00% +100.00%\n(.*\n)*Measurement: 2000 samples, 10 classes"),
    "02_measure_your_training_loop": ("--epochs 4 --every 2", rf"  2 +{NUMBER}  .*\n +4 +{NUMBER}  .*%\n$"),
    "03_resnet18": (
        "--samples 24 --size 32",
        rf"11.2 million(.*\n)*Measurement: 24 samples, 4 classes(.*\n)*layer3 +256 +{NUMBER}(.*\n)*fc +512 +{NUMBER}",
    ),
    "04_torchmetrics": ("", rf"    5 +{NUMBER}% +({NUMBER}) +\2 .*\n\d+ numbers in all"),
    "05_lightning": ("--epochs 2 --every 2", rf"nc/weight_norms.1\n +1 +{NUMBER} "),
    "06_transformers": (
        "--samples 48 --epochs 2 --every 1",
        rf"history:\nepoch +1  nc/nc1 .*\nepoch +2  nc/nc1 +{NUMBER} ",
    ),
    "07_theory_along_training": ("--epochs 4 --every 2", rf"  2 +{NUMBER}  .*\n +4 +{NUMBER}  .*\n$"),
}
SLOW = {"04_torchmetrics", "05_lightning", "06_transformers"}  # to import these libraries takes seconds


def test_every_example_is_run_here():
    assert {path.stem for path in FOLDER.glob("*.py")} == set(EXAMPLES)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in EXAMPLES])
def test_an_example_runs(name, tmp_path):
    arguments, expected = EXAMPLES[name]
    done = subprocess.run(
        [sys.executable, str(FOLDER / f"{name}.py"), *arguments.split()],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(expected, done.stdout), done.stdout
    assert "CaptureWarning" not in done.stderr
    assert not list(tmp_path.iterdir()), "an example leaves nothing behind"
