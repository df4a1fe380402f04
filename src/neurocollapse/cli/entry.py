"""The entry point of the command line: calls the command, and turns errors into one line and an exit status.

Nothing heavy is imported here, and only the command that is named.
"""

import difflib
import io
import os
import shutil
import signal
import sys
import textwrap
import warnings
from collections.abc import Sequence
from importlib import import_module
from types import FrameType

from .._errors import InputError
from .._version import __version__

#: Errors that a user can correct: one line and exit status 2. The package's own derive from `ValueError`.
USER_ERRORS = (ValueError, OSError)

#: The module that holds the function of each command, and the first line of that function's docstring.
COMMANDS = {
    "reproduce": (
        "running",
        "Reproduce the paper's experiment: train with and without weight decay, draw its figure, print its numbers.",
    ),
    "train": ("running", "Train one configuration, or the product of several values of its fields."),
    "measure": ("measurements", "Measure the collapse of features in a file, or of a model at one checkpoint or many."),
    "verify": (
        "theory",
        "Compare each identity and prediction of the theory with what a trained network shows.",
    ),
    "solve": (
        "theory",
        "Minimise the unconstrained features model from random starts, and compare the minimum with its closed form.",
    ),
    "claims": ("claims", "Judge each claim of the paper, and its open questions: verdicts with seeds and intervals."),
    "report": (
        "report",
        "Write a report on a folder of runs: one HTML file, which opens anywhere and offline.",
    ),
    "runs": ("listing", "List the runs in a folder, with the last epoch and the last numbers of each."),
}


class Terminated(KeyboardInterrupt):
    """The process received SIGTERM: like Ctrl-C, somebody wants the command to end."""


def main(args: Sequence[str] | None = None) -> None:
    """Runs a command and exits: 0; 1 if a run failed; 2 for what the user can correct; 130, 143 for Ctrl-C, SIGTERM."""
    words = sys.argv[1:] if args is None else list(args)
    signal.signal(signal.SIGTERM, _terminate)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may lack the letters of formulas
        sys.stdout.reconfigure(errors="replace")
    try:
        status = _run(words)
        sys.stdout.flush()  # here, where a full disk can still be reported
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        _discard_output()
        status = 141
    except USER_ERRORS as error:
        print(f"error: {' '.join(_message(error).split())}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt as stop:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # a second one would only disturb the end
        print("; ".join(["stopped", *map(str, stop.args)]), file=sys.stderr)
        status = 143 if isinstance(stop, Terminated) else 130
    sys.exit(status)


def _run(words: Sequence[str]) -> int:
    name, *rest = words or ["--help"]
    if name == "--version":
        print(f"neurocollapse {__version__}")
        return 0
    if name in ("--help", "-h"):
        print(_help())
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        raise InputError(f"there is no command {name!r}{meant}; choose from {', '.join(COMMANDS)}")
    from .parsing import call_of
    from .printing import messages

    warnings.showwarning = lambda message, *_args, **_kwargs: messages.print(f"warning: {message}")
    command = getattr(import_module(f".{COMMANDS[name][0]}", __package__), name)
    return call_of(name, command, rest)()


def _help() -> str:
    paragraphs = [
        "usage: neurocollapse COMMAND ...",
        "",
        "Train, measure and explain neural collapse.",
        "",
        "Example: neurocollapse reproduce --dataset mnist5k --seeds 3",
        "",
        *(f"  {name:<11}{summary}" for name, (_, summary) in COMMANDS.items()),
        "",
        "neurocollapse COMMAND --help shows the options of a command, neurocollapse --version the version.",
    ]
    width = shutil.get_terminal_size().columns
    return "\n".join(
        textwrap.fill(text, width, subsequent_indent=" " * 13 if text.startswith(" ") else "") for text in paragraphs
    )


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise Terminated


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno and error.filename is None:  # without a file, it is the output
        _discard_output()
        return f"the output cannot be written ({error.strerror}); make room, or send it elsewhere"
    return str(error)


def _discard_output() -> None:
    """Discards what is still to be written, about which Python would complain again when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
