"""What is typed, read: a run's fields as options, folders, values to vary."""

import contextlib
import dataclasses
import io
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from .._errors import InputError
from ..sweeps import ENGINES
from ..training import RunConfig


class RunOptions(RunConfig):
    """A run as typed. It is checked in the command, where an error becomes one line, not within the parser."""

    def __post_init__(self) -> None:
        pass


@dataclasses.dataclass(frozen=True)
class ComparedOptions(RunOptions):
    """A run as typed, less what `reproduce` varies."""

    weight_decay: tyro.conf.Suppress[tyro.conf.Fixed[float]] = RunConfig.weight_decay
    seed: tyro.conf.Suppress[tyro.conf.Fixed[int]] = RunConfig.seed


def _folder(text: str) -> Path:
    if not text:
        raise InputError("the name of the folder is empty; use . for this one")
    return Path(text)


#: A folder to write to. For `Path` alone an empty name is the folder where one stands.
Folder = Annotated[
    Path,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda words: _folder(words[0]),
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda path: [str(path)],
    ),
]

EngineName = Annotated[str, tyro.conf.arg(metavar=f"{{{','.join(ENGINES)}}}")]


@dataclasses.dataclass(frozen=True)
class Machines:
    """Where runs are trained, and how: what every command that trains takes."""

    data_dir: Path | None = None
    """Where mnist and cifar10 lie, or are downloaded to."""
    workers: int | None = None
    """Runs at a time; by default one per core, and on a cluster all that it has room for."""
    device: str = "cpu"
    """cpu, or cuda for an NVIDIA GPU."""
    engine: EngineName = "processes"
    """How the runs are trained: in processes side by side; batched, those alike stacked into one program, for a GPU; or
    as tasks of Ray."""
    address: str | None = None
    """Of the Ray cluster to join, auto for this machine's; without one Ray uses this machine alone."""

    @property
    def is_shared(self) -> bool:
        """Whether runs are trained elsewhere, on a cluster."""
        return self.address is not None

    @property
    def device_here(self) -> str:
        """What this process computes on: `device`, but that of a cluster is asked for when the runs begin."""
        return "cpu" if self.is_shared else self.device


def distinct(option: str, values: Sequence[Any]) -> Sequence[Any]:
    if not values:
        raise InputError(f"{option} needs at least one value")
    if len(set(values)) < len(values):
        raise InputError(f"{option} has a value twice: {' '.join(map(str, values))}")
    return values


def axis(text: str) -> tuple[str, Sequence[Any]]:
    """`field=value,value` with the values read as the type of that field of `RunConfig`."""
    name, equals, values = text.partition("=")
    name = name.replace("-", "_")
    types = typing.get_type_hints(RunConfig)
    if not equals or name not in types:
        raise InputError(f"--vary {text!r} is not field=value,value,...; the fields are {', '.join(types)}")
    parsed = [_parsed(text, name, types[name], value) for value in values.split(",")]
    return name, distinct(f"--vary {name}", parsed)


def _parsed(text: str, name: str, hint: Any, value: str) -> Any:
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # what tyro says would be about another command line
            return tyro.cli(hint, args=[value], console_outputs=False)
    except SystemExit:
        choices = typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
        expected = f"there are {', '.join(choices)}" if choices else f"it takes {_expected(hint)}"
        raise InputError(f"--vary {text!r}: {value!r} is no value for {name}; {expected}") from None


def _expected(hint: Any) -> str:
    """A field's type in words."""
    words = {int: "whole numbers", float: "numbers", type(None): "None"}
    return " or ".join(words[kind] for kind in typing.get_args(hint) or (hint,))
