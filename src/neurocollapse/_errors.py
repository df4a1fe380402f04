"""The errors that the package raises on purpose, and the warning of its measurements.

All derive from `NeurocollapseError`, and each also from `ValueError` or `OSError`. The message says what was wrong,
what the package got and what to do.
"""

import difflib
from collections.abc import Iterable
from pathlib import Path


class NeurocollapseError(Exception):
    """The base of every error that the package raises on purpose. Its message is `printable`."""

    def __str__(self) -> str:
        return printable(super().__str__())


class InputError(NeurocollapseError, ValueError):
    """An argument whose value cannot be used."""


class InputTypeError(InputError, TypeError):
    """An argument of a type that cannot be used."""


class DatasetError(NeurocollapseError, ValueError):
    """A data set that does not exist, cannot be read, or lacks something."""


class NetworkError(NeurocollapseError, ValueError):
    """A network that cannot be built or used as requested."""


class DivergedError(NeurocollapseError, ValueError):
    """A run whose objective became infinite or NaN."""


class FeatureFileError(NeurocollapseError, ValueError):
    """A file of features that cannot be read."""


class CheckpointError(NeurocollapseError, ValueError):
    """Checkpoints or a trajectory that cannot be found or read, or that belong to another model."""


class RunError(NeurocollapseError, ValueError):
    """A folder of runs that does not exist, is damaged, or belongs to another run."""


class VerificationError(NeurocollapseError, ValueError):
    """A network or run to which the theory does not apply, or that cannot be verified as requested."""


class FlowError(NeurocollapseError, ValueError):
    """A gradient flow whose solver cannot reach the requested tolerance."""


class FeatureStoreError(NeurocollapseError, OSError):
    """A temporary file of captured features that cannot be written; nothing of it is left on the disk."""


class WriteError(NeurocollapseError, OSError):
    """A file that cannot be written; the message names it."""

    def __init__(self, path: Path, error: OSError):
        super().__init__(error.errno, error.strerror or str(error), str(path))

    def __str__(self) -> str:
        return printable(f"{self.filename} cannot be written ({self.strerror}); make room, or name another folder")


class CaptureWarning(UserWarning):
    """A reason why a measurement may differ from that of the model on the unchanged data."""


def printable(text: str) -> str:
    r"""Makes visible what a terminal would obey or hide, such as the escapes in a file's name; lines stay lines.

    >>> print(printable("a\x1b[31mb"))
    a\x1b[31mb
    """
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns the nearest of the known words, to append to a message; an empty string if none is near.

    >>> "there is no key 'nc_1'" + did_you_mean("nc_1", ["nc1", "nc4"])
    "there is no key 'nc_1' (did you mean 'nc1'?)"
    """
    close = difflib.get_close_matches(word.lower(), list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
