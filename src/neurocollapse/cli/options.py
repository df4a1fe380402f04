"""The options that several commands share: a run's fields, folders, machines, and values to vary."""

import ast
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import tyro

from .._errors import InputError, did_you_mean
from .._files import path_of
from ..sweeps import ENGINES
from ..training import GROUPS, RunConfig
from .parsing import Form, read


def form(kind: type, groups: Mapping[str, Sequence[str]], left_out: Sequence[str] = ()) -> Form:
    """Returns a form that asks for a dataclass in groups of fields; the docstring of a field is its help."""
    hints, helps = get_type_hints(kind, include_extras=True), _docstrings(kind)

    def option(name: str) -> tuple[str, Any, Any]:
        return name, Annotated[hints[name], tyro.conf.arg(help=helps[name])], field(default=getattr(kind, name))

    made = [
        make_dataclass(title, [option(name) for name in names if name not in left_out], frozen=True)
        for title, names in groups.items()
    ]
    for group in made:
        group.__doc__ = ""  # make_dataclass makes one from the fields
    return Form(kind, tuple(made))


def _docstrings(kind: type) -> dict[str, str]:
    """Returns the docstrings below the fields of a class, each in one line, so that the help can wrap it."""
    (defined,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(defined, ast.ClassDef)
    found = {}
    for node, below in pairwise(defined.body):
        match node, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = " ".join(text.split())
    return found


def _folder(text: str) -> Path:
    if not text:
        raise InputError("the name of the folder is empty; use . for this one")
    return path_of(text)


#: A folder to write to. An empty name, which `Path` reads as the current folder, is an error.
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


@dataclass(frozen=True)
class Machines:
    """The options of every command that trains: where and how runs are trained."""

    data_dir: Path | None = None
    """The folder that holds mnist and cifar10, or that they are downloaded to."""
    workers: int | None = None
    """Number of runs at a time; by default one per core, and on a cluster as many as it has room for."""
    device: str = "cpu"
    """The device to train on: cpu, or cuda for an NVIDIA GPU."""
    engine: EngineName = "processes"
    """How the runs are trained: processes trains them side by side on this machine; batched stacks runs that are alike
    into one program, for a GPU; ray trains them as tasks of Ray."""
    address: str | None = None
    """The address of the Ray cluster to join, or auto for this machine's; without one Ray uses this machine alone."""

    @property
    def is_shared(self) -> bool:
        """Whether runs are trained elsewhere, on a cluster."""
        return self.address is not None

    @property
    def device_here(self) -> str:
        """The device of this process: `device`, or the CPU if a cluster has the devices."""
        return "cpu" if self.is_shared else self.device


#: The options of a run, the same without those that `reproduce` varies, and the options of the machines.
RunOptions = Annotated[RunConfig, form(RunConfig, GROUPS)]
ComparedOptions = Annotated[RunConfig, form(RunConfig, GROUPS, left_out=("weight_decay", "seed"))]
MachineOptions = Annotated[Machines, form(Machines, {"machines": [each.name for each in fields(Machines)]})]


def axis(text: str) -> tuple[str, Sequence[Any]]:
    """Reads `field=value,value`, with the values in the type of that field of `RunConfig`."""
    name, equals, values = text.partition("=")
    name = name.replace("-", "_")
    types = get_type_hints(RunConfig)
    if not equals:
        raise InputError(f"--vary {text!r} is not field=value,value,...; the fields are {', '.join(types)}")
    if name not in types:
        hint = did_you_mean(name, types)
        raise InputError(f"--vary {text!r}: a run has no field {name!r}{hint}; there are {', '.join(types)}")
    return name, [_read(text, name, types[name], value) for value in values.split(",")]


def _read(text: str, name: str, hint: Any, value: str) -> Any:
    try:
        return read(hint, value)
    except InputError as error:
        raise InputError(f"--vary {text!r}: {value!r} is no value for {name}; {error}") from None
