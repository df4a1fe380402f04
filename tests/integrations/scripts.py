"""Scripts that are run as a user runs them."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path


def run_script(text, folder, *launcher):
    """What the script prints; it is written into the folder, which it gets as its argument."""
    script = folder / "run.py"
    script.write_text(textwrap.dedent(text), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, str(script), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
