"""Records a step of training as a CUDA graph and replays it.

A step of a small network is a hundred launches of kernels, each of which takes longer than its kernel. A recorded step
finds all tensors at the same addresses each time, so it reads the number of the step from a counter on the device and
increments it itself.
"""

import warnings
from collections.abc import Callable

import torch

from .config import RunConfig

#: Steps before the recording: in the first ones libraries set themselves up and choose their kernels.
_WARM_UP = 3


def is_recordable(config: RunConfig, device: str) -> bool:
    """Whether a step can be recorded: only on a GPU, and not for a user's network, which may wait for the GPU."""
    return device.startswith("cuda") and ":" not in config.network


class Recording:
    """A step on a GPU, which is taken a few times, then recorded as a CUDA graph, and replayed from then on.

    A step that cannot be recorded is launched each time instead, with a warning.
    """

    def __init__(self, step: Callable[[], None], device: str):
        self._step, self._device = step, device
        # The warm-up and the recording share a stream, because the libraries keep their handles by stream.
        self._stream: torch.cuda.Stream | None = None
        self._again: Callable[[], None] | None = None

    def repeat(self, times: int) -> None:
        """Takes so many steps."""
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
                self._step()  # is recorded, and not executed
        except RuntimeError as error:
            warnings.warn(
                f"a step cannot be recorded as a CUDA graph, so each step is launched by itself, which is slower "
                f"({' '.join(str(error).split())})",
                stacklevel=2,
            )
            return self._step
        return graph.replay
