"""Trains one run for any engine: sets its threads, reports its events and turns its end into an event."""

import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..._errors import InputError, RunError, WriteError
from ...statistics import torch_threads
from ...training import RunConfig, State, training_data
from ..folder import RunFolder
from ..resuming import execute
from .events import Event


def default_workers(threads: int = 1) -> int:
    """Returns the number of runs at a time that fills the cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // threads)


def workers_for(runs: int) -> int:
    """Returns the number of runs at a time that keeps every core busy until the end, as far as runs take equally long.

    Of three runs on two cores all three share these, where two and then one would leave a core idle for half the time.
    Where the last round costs less than a tenth it is one run for each core, which takes less memory.
    """
    cores = default_workers()
    rounds = max(1, runs // cores)
    return -(-runs // rounds) if -(-runs // cores) > 1.1 * runs / cores else cores


def check_workers(workers: int | None) -> None:
    """Raises `ValueError` for a number of workers below one."""
    if workers is not None and workers < 1:
        raise InputError(f"workers must be at least 1, got {workers}")


def thread_variables(threads: int) -> dict[str, str]:
    """Returns the variables that a process needs before it imports torch; waiting threads sleep and do not spin."""
    return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}


@contextmanager
def environment_of_children(threads: int) -> Iterator[None]:
    """Sets what children inherit that start in the block: the number of threads, and where they import from.

    Python puts the current folder first for a child that runs `python -c`, and a random.py there would be run in place
    of Python's own. The user's own network is still found there: see `call_builder`.
    """
    wanted = {**thread_variables(threads), "PYTHONSAFEPATH": "1"}
    before = {name: os.environ.get(name) for name in wanted}
    path = list(sys.path)
    os.environ |= wanted
    sys.path[:] = [place for place in path if place not in ("", os.getcwd())]
    try:
        yield
    finally:
        sys.path[:] = path
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def train_and_report(
    index: int,
    config: RunConfig,
    out: Path,
    report: Callable[[Event], None],
    *,
    data_dir: Path | None,
    threads: int,
    device: str,
) -> Event:
    """Trains the run into `out`, reports its events and returns its end. It raises nothing, whatever the run does."""
    try:
        with warnings.catch_warnings(action="ignore"):  # the caller has loaded the same data and seen the warnings
            dataset = training_data(config, data_dir)
        with torch_threads(threads):
            folder = execute(
                config,
                dataset,
                out,
                device=device,
                on_state=lambda state: report(epoch_event(index, state)),
                on_wait=lambda: report(Event(index, "waiting")),
            )
        return end_event(index, folder)
    except WriteError as error:
        return Event(index, "stuck", message=str(error))
    except RunError as error:
        return Event(index, "failed", message=str(error))
    except Exception as error:  # the user's network or data may raise anything; the other runs continue
        return Event(index, "failed", message=in_one_line(error))


def end_event(index: int, folder: RunFolder) -> Event:
    """Returns the event for the end of a run, as its folder records it."""
    result = folder.result or {}
    if result.get("status") == "finished":
        return Event(index, "done", epoch=result["epoch"])
    return Event(index, "failed", message=result.get("message", ""))


def epoch_event(index: int, state: State) -> Event:
    """Returns the event for an epoch of the run, with the accuracy and NC1 if they were measured."""
    record = state.record or {}
    return Event(index, "epoch", state.epoch, state.objective, record.get("train.accuracy"), record.get("train.nc1"))


def in_one_line(error: Exception) -> str:
    """Returns the error in one line; an error that is not a `ValueError` comes with the place where it was raised."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    if isinstance(error, ValueError) or error.__traceback__ is None:
        return text
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{text} ({place.filename}, line {place.lineno})"
