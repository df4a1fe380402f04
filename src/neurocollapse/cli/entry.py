"""Where the command begins and ends: its words to a function, what that raises to one line and an exit status."""

import io
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from types import FrameType

import tyro

from .._version import __version__
from .claims import claims
from .experiments import reproduce, runs, train
from .measurements import measure
from .printing import messages
from .report import report
from .theory import solve, verify

#: Errors that a user can mend: one line and exit status 2. `ValueError` is the base of the package's own.
USER_ERRORS = (ValueError, OSError)


COMMANDS: dict[str, Callable[..., int]] = {
    "reproduce": reproduce,
    "train": train,
    "measure": measure,
    "verify": verify,
    "solve": solve,
    "claims": claims,
    "report": report,
    "runs": runs,
}


class Terminated(KeyboardInterrupt):
    """SIGTERM: like Ctrl-C, an end that somebody wishes for."""


def main(args: Sequence[str] | None = None) -> None:
    """Entry point. Exit status 0; 1 where a run failed; 2 for what the user can mend; 130, 143 for Ctrl-C, SIGTERM."""
    words = sys.argv[1:] if args is None else list(args)
    warnings.showwarning = lambda message, *_args, **_kwargs: messages.print(f"warning: {message}")
    signal.signal(signal.SIGTERM, _terminate)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may lack the letters of formulas
        sys.stdout.reconfigure(errors="replace")
    try:
        status = _run(words)
        sys.stdout.flush()  # here, where it can be told that the disk is full
    except BrokenPipeError:  # the reader, `head` for one, has had enough
        _discard_output()
        status = 141
    except USER_ERRORS as error:
        messages.print(f"error: {' '.join(_told(error).split())}")
        status = 2
    except KeyboardInterrupt as stop:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # a second one could only disturb the end
        messages.print("; ".join(["stopped", *map(str, stop.args)]))
        status = 143 if isinstance(stop, Terminated) else 130
    sys.exit(status)


def _run(words: Sequence[str]) -> int:
    if words == ["--version"]:
        print(f"neurocollapse {__version__}")
        return 0
    return tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        prog="neurocollapse",
        description="Train, measure and explain neural collapse. --version tells the version.",
        args=words,
        config=(tyro.conf.FlagCreatePairsOff,),
    )


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise Terminated


def _told(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno and error.filename is None:  # of no file, so of what is printed
        _discard_output()
        return f"the output cannot be written ({error.strerror}); make room, or send it elsewhere"
    return str(error)


def _discard_output() -> None:
    """What is still to be written would make Python complain once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
