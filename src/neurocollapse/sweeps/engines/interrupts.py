"""Ctrl-C and SIGTERM, put off while something must not be left half done."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType


@contextmanager
def without_interrupts() -> Iterator[None]:
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
