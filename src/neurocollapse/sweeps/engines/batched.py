"""Runs stacked into one program on one device: many small networks keep a GPU busy that one of them would not.

Each has a λ, a seed, a learning rate and an initial norm of its own, and a folder of its own as with `processes`:
either engine goes on with what the other began.
"""

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

from ..._errors import RunError, WriteError
from ...training import RunConfig, State, stack_key, training_data
from ..resuming import execute_together
from ..threads import torch_threads
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
    """Train the configurations into `out`, those of one `stack_key` as one program, and tell of it.

    Programs are trained one after the other, of at most `workers` runs, by default of all that can be stacked, with
    all cores unless `threads` says otherwise. What fails a program fails its runs alone, and a damaged folder its run.

    Closing the iterator ends the training; what was saved stays, and the same call goes on from there. Raises
    `RunError` where nothing can be written, which stops the others too.
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
    except Exception as error:  # the user's network or data may raise anything; the other programs go on
        yield from (Event(index, "failed", message=in_one_line(error)) for index in waiting)


def _refuse_to_wait() -> None:
    raise RuntimeError("another process is training a run of this program; the same command goes on after it")
