"""The keys of each file in a run's folder, and their types."""

from dataclasses import dataclass
from typing import Any, Literal

from .._schema import measured_type
from .naming import FORMAT


@dataclass(frozen=True)
class NetworkKept:
    """A `Fingerprint`, which needs torch, as config.json keeps it."""

    sha256: str
    outputs: tuple[float, ...]


@dataclass(frozen=True)
class Description:
    """The keys of config.json, with their types. A run made before a key was added lacks it."""

    config: dict[str, Any]
    num_classes: int
    data_sha256: str = ""
    definitions: int = 1
    notes: tuple[str, ...] = ()
    provenance: tuple[dict[str, Any], ...] = ()
    network: NetworkKept | None = None
    schema: int = FORMAT
    """The version of both the format and the defaults, before they had one each."""
    format: int | None = None
    defaults: int | None = None


#: A `num_classes` beyond this is damage.
MOST_CLASSES = 10**8

#: What config.json says under `loop` of a run that the user's own loop recorded.
OWN = "own"


@dataclass(frozen=True)
class OwnDescription:
    """The keys of config.json of a run that the user's own loop recorded."""

    config: dict[str, str | bool | int | float | None]
    format: int
    definitions: int
    num_classes: int | None = None
    provenance: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Ending:
    """The keys of result.json."""

    status: Literal["finished", "diverged"]
    epoch: int | None = None
    message: str = ""


#: The keys that every record has, and every line of timings.
RECORD = {
    "epoch": int,
    "learning_rate": float,
    "gradient_norm": float,
    "terminal_phase_start": int | None,
    "train.accuracy": float,
    "train.weight_norms": list[float],
}
#: The keys that every record of the user's own loop has.
OWN_RECORD = {"epoch": int, "terminal_phase_start": int | None}
TIMING = {"epoch": int, "train": float, "measure": float}

#: The keys that a record may have besides, and that do not begin with a split.
_FURTHER = ("classifier_sum", "relative_gradient", "norm_spread", "nc1_slope")

#: The columns of `runs` that hold what was recorded, besides those that begin with a split.
RECORDED = {*RECORD, *OWN_RECORD, *_FURTHER, "current_learning_rate"} - {"learning_rate"}


def recorded_type(key: str) -> Any:
    """Returns the type of any key of a record that this package measured; keys that it does not know hold any number.

    >>> recorded_type("train.nc1"), recorded_type("test.class_counts")
    (float | None, list[float])
    """
    is_known = key.startswith(("train.", "test.")) or key in _FURTHER
    return measured_type(key.rpartition(".")[2]) if is_known else Any


#: The tensors of each epoch in snapshots.safetensors, and their axes: see `training.snapshot`.
SNAPSHOT = {"labels": 1, "samples": 2, "means": 2, "weight_gram": 2, "means_gram": 2}
