"""Trains runs stacked into one program on one device: one small network would leave a GPU idle, many keep it busy.

Each run has its own λ, seed, learning rate and initial norm, and its own folder as with `processes`: each engine
resumes the runs of the other.
"""

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

from ..._errors import RunError, WriteError
from ...statistics import torch_threads
from ...training import RunConfig, State, stack_key, training_data
from ..resuming import execute_together
from .events import Event
from .work import check_workers, default_workers, end_event, epoch_event, in_one_line


def train_batched(
    configs: Sequence[RunConfig],
    out: Path,
    *,
    data_dir: Path | None = None,
    workers: int | None = None,
    threads: int | None = None,
    device: str = "cpu",
) -> Generator[Event, None, None]:
    """Trains the configurations into `out`, those with one `stack_key` as one program, and yields events.

    Programs are trained one after the other. Each has at most `workers` runs, by default all that can be stacked, and
    uses all cores unless `threads` is given. An error in a program fails its runs alone, and a damaged folder only its
    own run.

    Closing the iterator ends the training; what was saved stays, and the same call resumes it. Raises `RunError` if
    nothing can be written, which stops the other runs too.
    """
    check_workers(workers)
    programs: dict[RunConfig, list[int]] = {}
    for index, config in enumerate(configs):
        programs.setdefault(stack_key(config), []).append(index)
    with torch_threads(threads or default_workers()):
        for indices in programs.values():
            size = workers or len(indices)
            for start in range(0, len(indices), size):
                yield from _train_program(configs, indices[start : start + size], out, data_dir, device)


def _train_program(
    configs: Sequence[RunConfig], indices: Sequence[int], out: Path, data_dir: Path | None, device: str
) -> Iterator[Event]:
    waiting = list(indices)
    try:
        dataset = training_data(configs[indices[0]], data_dir)
        program = execute_together(
            [configs[index] for index in indices], dataset, out, device=device, on_wait=_refuse_to_wait
        )
        for place, arrived in program:
            index = indices[place]
            if isinstance(arrived, State):
                yield epoch_event(index, arrived)
                continue
            waiting.remove(index)
            if isinstance(arrived, RunError):
                yield Event(index, "failed", message=str(arrived))
            else:
                yield end_event(index, arrived)
    except WriteError as error:
        raise RunError(str(error)) from error
    except Exception as error:  # the user's network or data may raise anything; the other programs continue
        yield from (Event(index, "failed", message=in_one_line(error)) for index in waiting)


def _refuse_to_wait() -> None:
    raise RuntimeError("another process is training a run of this program; wait for it, then use the same command")
