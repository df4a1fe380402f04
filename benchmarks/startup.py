"""How long the command takes to answer: seconds, the median of several, and how they compare with `import torch`."""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import neurocollapse as nc

COMMANDS = ["--version", "--help", "train --help", "measure features.npz", "runs runs"]


def seconds(program: str, words: list[str], folder: Path) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", program, *words], cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - start


def fill(folder: Path) -> None:
    """A file of features, and a folder with a run."""
    labels = np.arange(1000) % 10
    np.savez(folder / "features.npz", features=np.random.default_rng(0).normal(size=(1000, 64)), labels=labels)
    words = "train --dataset gaussian --network mlp --depth 2 --width 8 --epochs 1 --workers 1 --out runs"
    seconds("from neurocollapse.cli import main; main()", words.split(), folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5, help="of each, in turn")
    options = parser.parse_args()
    source = str(Path(nc.__file__).parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    programs = {"import torch": ("import torch", [])}
    programs |= {words: ("from neurocollapse.cli import main; main()", words.split()) for words in COMMANDS}
    with tempfile.TemporaryDirectory() as name:
        fill(Path(name))
        rounds = [
            {label: seconds(*program, Path(name)) for label, program in programs.items()}
            for _ in range(options.repetitions)
        ]
    medians = {label: statistics.median(times[label] for times in rounds) for label in programs}
    torch = medians["import torch"]
    print(f"{'':<22}{'seconds':>9}{'of torch':>10}{'beyond it':>11}")
    for label, median in medians.items():
        print(f"{label:<22}{median:>9.2f}{median / torch:>9.2f}×{median - torch:>+11.2f}")


if __name__ == "__main__":
    main()
