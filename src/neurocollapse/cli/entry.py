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
from typing import TextIO

from .._errors import InputError, printable
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
    "map": (
        "report",
        "Draw a map of a sweep: a field across, all others that vary down, the colour a measure of the last records.",
    ),
    "runs": ("listing", "List the runs in a folder, with the last epoch and the last numbers of each."),
}


#: The signals that asked this command to end. Libraries swallow the exception, or raise another one in its place.
_received: list[int] = []


def main(args: Sequence[str] | None = None) -> None:
    """Runs a command and exits: 0; 1 if a run failed; 2 for what the user can correct; 130, 143 for Ctrl-C, SIGTERM."""
    words = sys.argv[1:] if args is None else list(args)
    _received.clear()
    signal.signal(signal.SIGTERM, _stop)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell lets those in the background ignore it
        signal.signal(signal.SIGINT, _stop)
    _open_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may lack the letters of formulas
        sys.stdout.reconfigure(errors="replace")
    try:
        status = _status_of(words)
    except OSError as error:  # the reader of either stream, such as `head`, has closed it; or there is no room for it
        _discard(sys.stdout, sys.stderr)
        status = 141 if isinstance(error, BrokenPipeError) else 2
    sys.exit(status)


def _status_of(words: Sequence[str]) -> int:
    """Runs a command, says what went wrong, and returns the exit status. Raises `OSError` if it cannot say it."""
    try:
        status = _run(words)
        sys.stdout.flush()  # here, where a full disk can still be reported
        return status
    except (Exception, KeyboardInterrupt) as error:
        if _received or isinstance(error, KeyboardInterrupt):
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)  # a second one would only disturb the end
            _say("; ".join(["stopped", *map(str, error.args if isinstance(error, KeyboardInterrupt) else ())]))
            return 128 + (_received or [signal.SIGINT])[0]
        if isinstance(error, BrokenPipeError) or not isinstance(error, USER_ERRORS):
            raise
        _say(f"error: {_message(error)}")
        return 2


def _say(text: str) -> None:
    """Prints one line on the standard error."""
    print(printable(" ".join(text.split())), file=sys.stderr)


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


def _stop(number: int, _frame: FrameType | None) -> None:
    _received.append(number)
    raise KeyboardInterrupt


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno and error.filename is None:  # without a file, it is the output
        _discard(sys.stdout)
        return f"the output cannot be written ({error.strerror}); make room, or send it elsewhere"
    return str(error)


def _discard(*streams: TextIO) -> None:
    """Discards what is still to be written, about which Python would complain again when it exits."""
    for stream in streams:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _open_closed_streams() -> None:
    """Opens the null device in place of standard streams that are closed; files would get their numbers."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it gets the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False))
