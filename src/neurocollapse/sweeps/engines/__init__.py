"""Engines: ways to train the runs of a sweep. They are generator functions with one signature that yield events."""

from collections.abc import Callable, Generator, Iterator, Mapping
from functools import partial
from importlib import import_module

from ..._errors import InputError
from .events import Event

#: It is called as `train_side_by_side` is.
Engine = Callable[..., Generator[Event, None, None]]


_PLACES = {
    "processes": ("processes", "train_side_by_side"),
    "batched": ("batched", "train_batched"),
    "ray": ("ray_cluster", "train_on_ray"),
}


class _Engines(Mapping[str, Engine]):
    """The engines by name. The names are known without torch; an engine is imported when it is looked up."""

    def __getitem__(self, name: str) -> Engine:
        module, function = _PLACES[name]
        return getattr(import_module(f".{module}", __name__), function)

    def __iter__(self) -> Iterator[str]:
        return iter(_PLACES)

    def __len__(self) -> int:
        return len(_PLACES)


ENGINES: Mapping[str, Engine] = _Engines()


def engine_named(name: str, address: str | None = None) -> Engine:
    """Returns the engine of that name; `ray` joins the cluster at `address`, if given. Raises `ValueError`."""
    if name not in ENGINES:
        raise InputError(f"there is no engine {name!r}; choose from {', '.join(ENGINES)}")
    if name == "ray":
        from .ray_cluster import check_ray

        check_ray(address)
        return partial(ENGINES[name], address=address)
    if address is not None:
        raise InputError(f"address {address} is that of a Ray cluster, and the engine is {name}; choose the engine ray")
    return ENGINES[name]
