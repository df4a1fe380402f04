"""Trains runs side by side, each in a process of its own on this machine.

On a CPU, one-thread processes side by side do more steps than one process with all the threads. A run that crashes
does not affect the others.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess, SpawnContext, SpawnProcess
from pathlib import Path
from types import ModuleType

from ..._errors import InputError, RunError
from ...training import RunConfig
from .events import Event
from .interrupts import without_interrupts
from .work import check_workers, default_workers, environment_of_children, train_and_report


def train_side_by_side(
    configs: Sequence[RunConfig],
    out: Path,
    *,
    data_dir: Path | None = None,
    workers: int | None = None,
    threads: int = 1,
    device: str = "cpu",
) -> Generator[Event, None, None]:
    """Trains the configurations into `out`, `workers` at a time (by default one per `threads` cores); yields events.

    Closing the iterator stops the processes; what they have saved stays, and the same call resumes it. Raises
    `RunError` if the disk is full or cannot be written to, which stops the other runs too, since they share it.
    """
    check_workers(workers)
    workers = workers or default_workers(threads)
    context = _context()
    waiting = list(enumerate(configs))
    running: dict[Connection, tuple[int, ForkServerProcess | SpawnProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                index, config = waiting.pop(0)
                receiver, sender = context.Pipe(duplex=False)
                job = (sender, index, config, out, data_dir, threads, device)
                process = context.Process(target=_work, args=job, daemon=True)
                with environment_of_children(threads), _without_main_module(), without_interrupts():
                    _start(process)
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
                    raise RunError(event.message)
                if event is None or event.kind in ("done", "failed"):
                    process.join()
                    receiver.close()
                    del running[receiver]
                if event is not None:
                    yield event
    finally:
        with without_interrupts():  # a second Ctrl-C must not leave half of them running
            for _, process in running.values():
                process.terminate()
            for receiver, (_, process) in running.items():
                process.join()
                receiver.close()


def _context() -> ForkServerContext | SpawnContext:
    """Returns a context that forks children from a process that has imported torch once, since that takes seconds.

    They are not forked from this process, which has threads that may hold locks.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():  # Windows
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _silent_end(index: int, process: ForkServerProcess | SpawnProcess) -> Event:
    process.join()
    code = process.exitcode or 0
    reason = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    return Event(index, "failed", message=f"its process {reason} (out of memory?); the same command resumes it")


@contextmanager
def _without_main_module() -> Iterator[None]:
    """Hides the calling script: a child would run it again, and start children of its own."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _start(process: ForkServerProcess | SpawnProcess) -> None:
    try:
        process.start()
    except OSError as error:
        if "AF_UNIX" not in str(error):
            raise
        folder = tempfile.gettempdir()
        raise InputError(
            f"the folder for temporary files, {folder}, has too long a name for a socket, which the processes need; "
            f"set TMPDIR to one of at most 60 letters"
        ) from error


def _work(
    sender: Connection, index: int, config: RunConfig, out: Path, data_dir: Path | None, threads: int, device: str
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # A broken pipe means that the parent is gone and nobody wants this run; the last checkpoint stays.
    with contextlib.suppress(BrokenPipeError):
        end = train_and_report(index, config, out, sender.send, data_dir=data_dir, threads=threads, device=device)
        sender.send(end)


def _end_with_parent() -> None:
    """Ends this process with its parent. A broken pipe would show only after an epoch, which may take minutes."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
