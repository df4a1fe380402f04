"""Delays Ctrl-C and SIGTERM while something must not be left half done."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType


@contextmanager
def without_interrupts() -> Iterator[None]:
    """Delays Ctrl-C and SIGTERM until the block ends; a child process started in it never sees Ctrl-C.

    Ctrl-C reaches the whole process group, and the parent must decide. The child could ignore it only from its first
    line on, which is too late, since importing torch takes seconds.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()  # the only one where Ctrl-C raises
    if not in_main_thread or not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    caught: list[int] = []

    def catch(number: int, _frame: FrameType | None) -> None:
        caught.append(number)

    resource_tracker.ensure_running()  # otherwise it starts with the first child, and unblocks the signal
    # The signal is blocked because the child inherits that, and caught because another thread may receive it.
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
