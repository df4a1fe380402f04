"""The command in a process of its own, for what shows only there: signals, kills, what a terminal sees."""

import dataclasses
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from neurocollapse.training import RunConfig

COMMAND = str(Path(sys.executable).with_name("neurocollapse"))


def train_words(config: RunConfig, out: Path, *more: object) -> list[str]:
    """The command that trains this configuration into `out`."""
    options = {name: value for name, value in dataclasses.asdict(config).items() if value is not None}
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    return [str(word) for word in (COMMAND, "train", "--out", out, *words, *more)]


def start(words: list[str], **options: Any) -> subprocess.Popen:
    """Begin a command, in a group of its own, that can be interrupted.

    A shell that runs the tests in the background has its children ignore Ctrl-C.
    """
    interruptible = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(words, text=True, start_new_session=True, preexec_fn=interruptible, **pipes)


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    """Until it is true; an error where that takes longer."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.01)
