"""Many runs side by side: a list of configurations, and the processes that train them.

On a CPU one-thread processes side by side do more steps than one process with all the threads, so every run has a
process of its own, with its threads set; a run that crashes takes no other with it.
"""

import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
import traceback
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch

from .atomic import WriteError
from .datasets import Dataset
from .execution import execute
from .probing import few_of_each_class
from .store import StoreError
from .training import RunConfig, State, recorded_epochs, train, training_data

Axes = dict[str, Sequence[Any]]


@dataclass(frozen=True)
class Sweep:
    """The product of some fields' values over a base configuration.

    >>> [run.weight_decay for run in Sweep(RunConfig(), {"weight_decay": (0.0, 1e-3)})]
    [0.0, 0.001]
    """

    base: RunConfig
    axes: Axes

    def __iter__(self) -> Iterator[RunConfig]:
        for values in itertools.product(*self.axes.values()):
            yield replace(self.base, **dict(zip(self.axes, values, strict=True)))

    def __len__(self) -> int:
        return len(list(iter(self)))


@dataclass(frozen=True)
class Event:
    """News of the run at place `index` of the sweep: an epoch done, or its end (`kind` tells how)."""

    index: int
    kind: Literal["waiting", "epoch", "done", "failed", "stuck"]
    epoch: int = 0
    objective: float = float("nan")
    accuracy: float | None = None
    nc1: float | None = None
    message: str = ""


def default_workers(threads: int = 1) -> int:
    """Runs at a time that fill the cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // threads)


def train_side_by_side(
    configs: Sequence[RunConfig],
    out: Path,
    *,
    data_dir: Path | None = None,
    workers: int | None = None,
    threads: int = 1,
    device: str = "cpu",
) -> Generator[Event, None, None]:
    """Train the configurations into `out`, `workers` at a time (by default one per `threads` cores), and tell of it.

    Closing the iterator stops the processes; what they have saved stays, and the same call goes on from there.
    Raises `StoreError` where the folder of a run is damaged or cannot be written, which stops the others too: they
    share the disk.
    """
    workers = default_workers(threads) if workers is None else workers
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    context = multiprocessing.get_context("spawn")
    waiting = list(enumerate(configs))
    running: dict[Connection, tuple[int, SpawnProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                index, config = waiting.pop(0)
                receiver, sender = context.Pipe(duplex=False)
                job = (sender, index, config, out, data_dir, threads, device)
                process = context.Process(target=_work, args=job, daemon=True)
                with _thread_environment(threads), _without_interrupts():
                    process.start()
                    running[receiver] = (index, process)
                sender.close()
            ready = wait(list(running))
            for receiver in [connection for connection in running if connection in ready]:
                index, process = running[receiver]
                try:
                    event: Event | None = receiver.recv()
                except EOFError:
                    event = _silent_end(index, process)
                if event is not None and event.kind == "stuck":
                    raise StoreError(event.message)
                if event is None or event.kind in ("done", "failed"):
                    process.join()
                    receiver.close()
                    del running[receiver]
                if event is not None:
                    yield event
    finally:
        with _without_interrupts():  # a second Ctrl-C must not leave half of them running
            for _, process in running.values():
                process.terminate()
            for receiver, (_, process) in running.items():
                process.join()
                receiver.close()


def _silent_end(index: int, process: SpawnProcess) -> Event:
    process.join()
    code = process.exitcode or 0
    reason = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    return Event(index, "failed", message=f"its process {reason} (out of memory?); the same command goes on from there")


@contextmanager
def _thread_environment(threads: int) -> Iterator[None]:
    """What a child must find before it imports torch: its threads, which sleep instead of spinning while they wait."""
    wanted = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ |= wanted
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """A child started here never sees Ctrl-C, which reaches the whole group: the parent decides.

    Not only from its first line on: importing torch takes seconds. Here Ctrl-C and SIGTERM wait until the block ends.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()  # the only one where Ctrl-C raises
    if not in_main_thread or not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    caught: list[int] = []

    def catch(number: int, _frame: FrameType | None) -> None:
        caught.append(number)

    resource_tracker.ensure_running()  # else it starts with the first child, and unblocks the signal
    # Blocked for the child, which inherits that; caught here, for another thread may be the one that is interrupted.
    # SIGTERM is not blocked: the parent ends its children with it.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    handlers = {number: signal.signal(number, catch) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if caught:
            signal.raise_signal(caught[0])


def _work(
    sender: Connection, index: int, config: RunConfig, out: Path, data_dir: Path | None, threads: int, device: str
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        with warnings.catch_warnings(action="ignore"):  # the parent has loaded the same data, and shown them
            dataset = training_data(config, data_dir)
        tell_waiting = partial(sender.send, Event(index, "waiting"))
        folder = execute(
            config, dataset, out, device=device, on_state=partial(_tell, sender, index), on_wait=tell_waiting
        )
        result = folder.result or {}
        kind: Literal["done", "failed"] = "done" if result.get("status") == "finished" else "failed"
        sender.send(Event(index, kind, epoch=result.get("epoch", 0), message=result.get("message", "")))
    except BrokenPipeError:
        pass  # the parent is gone, and with it the wish for this run; the last checkpoint stays
    except (StoreError, WriteError) as error:
        with contextlib.suppress(BrokenPipeError):
            sender.send(Event(index, "stuck", message=str(error)))
    except Exception as error:  # the user's network or data may raise anything; the other runs go on
        with contextlib.suppress(BrokenPipeError):
            sender.send(Event(index, "failed", message=_in_one_line(error)))


def _end_with_parent() -> None:
    """A parent that was killed ends nobody, and an epoch, after which its pipe would tell, may take minutes."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _in_one_line(error: Exception) -> str:
    """The error, and for one that is not the package's own the place where it was raised."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    if isinstance(error, ValueError) or error.__traceback__ is None:
        return text
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{text} ({place.filename}, line {place.lineno})"


def _tell(sender: Connection, index: int, state: State) -> None:
    record = state.record or {}
    accuracy, nc1 = record.get("train.accuracy"), record.get("train.nc1")
    sender.send(Event(index, "epoch", state.epoch, state.objective, accuracy, nc1))


#: Training samples that the estimate is timed on.
_SAMPLE = 1000


def estimate_seconds(config: RunConfig, dataset: Dataset) -> float:
    """How long the run should take on one thread, from one epoch on a small part of the data, timed here and now."""
    labels = dataset.train.labels
    small = few_of_each_class(dataset, _SAMPLE)
    share = len(small.train.labels) / len(labels)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # A step takes as long at any learning rate; at this one it cannot diverge.
        *_, last = train(replace(config, epochs=1, learning_rate=1e-9), small)
    finally:
        torch.set_num_threads(threads)
    test_share = 1.0 if dataset.test is None else 1 + len(dataset.test.labels) / len(labels)
    epochs = config.epochs * last.seconds["train"] / share
    records = len(recorded_epochs(config.epochs)) * last.seconds["measure"] * test_share / share
    return epochs + records
