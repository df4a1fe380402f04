"""The numbers in the lines of a trajectory, for whoever writes and whoever draws them; loads no torch."""

from collections.abc import Container, Mapping
from typing import Any

from .._schema import NON_FINITE, measured_type, typed

#: What a line says besides numbers: its checkpoint, and the conditions under which that was measured.
CHECKPOINT_KEYS = ("checkpoint", "path", "sha256")
CONDITION_KEYS = (
    "model", "head", "network", "dataset", "split", "data_sha256", "definitions", "absent", "min_per_class",
    "max_per_class",
)  # fmt: skip


def numbers_of(line: Mapping[str, Any], number: int, known: Container[str]) -> dict[str, Any]:
    """Returns what was measured in a line of a trajectory by key; text under keys that are not `known` is a note.

    Raises `InputError` for another value that is no number.
    """
    measured = {key: value for key, value in line.items() if key not in (*CHECKPOINT_KEYS, *CONDITION_KEYS)}
    return {
        key: typed(measured_type(key), value, f"line {number}: {key}")
        for key, value in measured.items()
        if key in known or not isinstance(value, str) or value in NON_FINITE
    }
