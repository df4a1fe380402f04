"""Engines: ways to train the runs of a sweep. Each is a generator function with one signature, and yields events."""

from collections.abc import Callable, Generator
from functools import partial

from ..._errors import InputError
from .batched import train_batched
from .events import Event
from .processes import train_side_by_side
from .ray_cluster import check_ray, train_on_ray

#: Called as `train_side_by_side` is.
Engine = Callable[..., Generator[Event, None, None]]

ENGINES: dict[str, Engine] = {
    "processes": train_side_by_side,
    "batched": train_batched,
    "ray": train_on_ray,
}


def engine_named(name: str, address: str | None = None) -> Engine:
    """The engine of that name; `ray` may join the cluster at `address`. Raises `ValueError` where it is not there."""
    if name not in ENGINES:
        raise InputError(f"there is no engine {name!r}; choose from {', '.join(ENGINES)}")
    if name == "ray":
        check_ray(address)
        return partial(train_on_ray, address=address)
    if address is not None:
        raise InputError(f"address {address} is that of a Ray cluster, and the engine is {name}; choose the engine ray")
    return ENGINES[name]
