"""On a GPU a step of a small network is a hundred launches that take longer than what they launch: record, and replay.

What is recorded must find everything at the same place each time: it is told by a counter on the device, which it moves
on itself, what step it is.
"""

import warnings
from collections.abc import Callable

import torch

from .config import RunConfig

#: Steps taken before one is recorded: libraries set themselves up and choose their kernels in the first ones.
_WARM_UP = 3


def is_recordable(config: RunConfig, device: str) -> bool:
    """Whether a step of this run can be recorded. A user's network may ask the device what it is to do next."""
    return device.startswith("cuda") and ":" not in config.network


class Recording:
    """A step on a GPU: taken a few times, then recorded as a CUDA graph, and from then on replayed.

    A step that cannot be recorded is launched anew each time, which is told.
    """

    def __init__(self, step: Callable[[], None], device: str):
        self._step, self._device = step, device
        # One stream for the warm-up and the recording: the libraries have their handles for it.
        self._stream: torch.cuda.Stream | None = None
        self._again: Callable[[], None] | None = None

    def repeat(self, times: int) -> None:
        """Take so many steps."""
        if self._again is None:
            warm = min(times, _WARM_UP)
            self._warm_up(warm)
            times -= warm
            if not times:
                return
            self._again = self._record()
        for _ in range(times):
            self._again()

    def _warm_up(self, times: int) -> None:
        self._stream = torch.cuda.Stream(self._device)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            for _ in range(times):
                self._step()
        torch.cuda.current_stream(self._device).wait_stream(self._stream)

    def _record(self) -> Callable[[], None]:
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self._stream):
                self._step()  # is written down, and not executed
        except RuntimeError as error:
            warnings.warn(
                f"a step cannot be recorded as a CUDA graph, so each is launched anew, which is slower "
                f"({' '.join(str(error).split())})",
                stacklevel=2,
            )
            return self._step
        return graph.replay
