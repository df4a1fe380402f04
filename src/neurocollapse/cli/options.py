"""The options that several commands share: a run's fields, folders, machines, and values to vary."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal, get_type_hints

import tyro

from .._errors import InputError, did_you_mean
from ..sweeps import ENGINES, Machines
from ..training import GROUPS, RECIPES, RunConfig
from .parsing import Form, Presets, form, read

EngineName = Annotated[str, tyro.conf.arg(metavar=f"{{{','.join(ENGINES)}}}")]


def _machines(*names: str) -> Form:
    asked = form(Machines, {"machine": names}, engine=EngineName)
    return Form(partial(Machines, progress=True), asked.groups)


_PLACES = ("data_dir", "workers", "device", "engine", "address")

#: The options of a run, the same without those that `reproduce` varies, and the options of the machines.
RunOptions = Annotated[RunConfig, form(RunConfig, GROUPS)]
ComparedOptions = Annotated[RunConfig, form(RunConfig, GROUPS, left_out=("weight_decay", "seed"))]
MachineOptions = Annotated[Machines, _machines(*_PLACES)]
FollowedOptions = Annotated[Machines, _machines(*_PLACES, "tensorboard")]


RecipeName = Annotated[
    Literal["default", "paper"],
    Presets({name: {**each.config.changed, "weight_decay": each.weight_decays} for name, each in RECIPES.items()}),
]


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
