"""On a GPU a step of a small network is a hundred launches that take longer than what they launch: record, and replay.

What is recorded must find everything at the same place each time: it is told by a counter on the device, which it moves
on itself, what step it is.
"""

import warnings
from collections.abc import Callable

import torch

from ..config import RunConfig

#: Steps taken before one is recorded: libraries set themselves up and choose their kernels in the first ones.
_WARM_UP = 3


def is_recordable(config: RunConfig, device: str) -> bool:
    """Whether a step of this run can be recorded. A user's network may ask the device what it is to do next."""
    return device.startswith("cuda") and ":" not in config.network


def repeat(step: Callable[[], None], times: int, device: str) -> None:
    """Call `step` so many times on a GPU: as a CUDA graph, but where it cannot be recorded, which is told."""
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(min(times, _WARM_UP)):
            step()
    torch.cuda.current_stream(device).wait_stream(stream)
    if times <= _WARM_UP:
        return
    try:
        graph = torch.cuda.CUDAGraph()
        # On the stream of the warm-up, for which the libraries have their handles.
        with torch.cuda.graph(graph, stream=stream):
            step()  # is written down, and not executed
        again: Callable[[], None] = graph.replay
    except RuntimeError as error:
        warnings.warn(
            f"a step cannot be recorded as a CUDA graph, so each is launched anew, which is slower "
            f"({' '.join(str(error).split())})",
            stacklevel=2,
        )
        again = step
    for _ in range(times - _WARM_UP):
        again()
