"""Trains configurations into their folders: starts a new run, resumes a stopped one, leaves an ended one alone."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

from .._errors import CheckpointError, DivergedError, RunError
from ..datasets import Dataset
from ..training import RunConfig, State, epochs, train_together
from .files import damaged
from .folder import CHECKPOINT, RunFolder
from .identity import check_resumable, run_id
from .networks_tried import fingerprint, run_notes
from .writing import RunWriter

#: A checkpoint is written at least this often, at the end of an epoch, even if there is no record.
CHECKPOINT_SECONDS = 20.0


def execute(
    config: RunConfig,
    dataset: Dataset,
    out: Path,
    *,
    device: str = "cpu",
    on_state: Callable[[State], None] = lambda state: None,
    on_wait: Callable[[], None] = lambda: None,
) -> RunFolder:
    """Trains a configuration into `out`/<run-id>; it resumes a stopped run and leaves an ended one alone.

    `on_state` is called with every state once it is safe on disk. A run that diverges keeps its records, and its
    result.json says so. If another process trains the same run, this calls `on_wait` and waits for it.

    Raises `RunError` if the folder holds the same configuration with other data or another network, or is damaged, and
    `WriteError` if it cannot be written.
    """
    with _opened(config, dataset, out, device, on_wait) as folder:
        if folder.result is None:
            keeper = _Keeper(folder)
            try:
                for state in epochs(config, dataset, resume=folder.resume_point(), device=device):
                    keeper.keep(state)
                    on_state(state)
            except DivergedError as error:
                keeper.keep(error)
            except CheckpointError as error:
                raise damaged(folder.path / CHECKPOINT, error) from error
    return folder


def execute_together(
    configs: Sequence[RunConfig],
    dataset: Dataset,
    out: Path,
    *,
    device: str = "cpu",
    on_wait: Callable[[], None] = lambda: None,
) -> Iterator[tuple[int, State | RunFolder | RunError]]:
    """Trains configurations with one `stack_key` as one program, each into its folder as `execute` does.

    Yields a run's index in `configs` with each state once it is safe on disk, and with the folder once the run has
    ended. For a folder that `execute` would refuse, it yields the error, and the other runs continue. Raises
    `WriteError`, and `NetworkError` for a network that cannot be stacked.
    """
    with ExitStack() as stack:
        folders = {}
        # In the order of their names: two processes that lock the same runs in different orders could wait for ever.
        for index in sorted(range(len(configs)), key=lambda index: run_id(configs[index], dataset)):
            try:
                folders[index] = stack.enter_context(_opened(configs[index], dataset, out, device, on_wait))
            except RunError as error:
                yield index, error
        resumes = {}
        for index, folder in folders.items():
            if folder.result is not None:
                yield index, folder
                continue
            try:
                resumes[index] = folder.resume_point()
            except RunError as error:
                yield index, error
        todo = list(resumes)
        keepers = [_Keeper(folders[index]) for index in todo]
        arrivals = train_together(
            [configs[index] for index in todo], dataset, resumes=list(resumes.values()), device=device
        )
        for place, arrived in arrivals:
            if isinstance(arrived, CheckpointError):
                yield todo[place], damaged(folders[todo[place]].path / CHECKPOINT, arrived)
                continue
            keepers[place].keep(arrived)
            if isinstance(arrived, State):
                yield todo[place], arrived
            if isinstance(arrived, DivergedError) or arrived.finished:
                yield todo[place], folders[todo[place]]


@contextmanager
def _opened(
    config: RunConfig, dataset: Dataset, out: Path, device: str, on_wait: Callable[[], None]
) -> Iterator[RunWriter]:
    """Locks the run's folder, checks it, and writes its config.json; only checks it if the run has ended."""
    folder = RunWriter(out / run_id(config, dataset))
    network = fingerprint(config, dataset)
    # An ended run stays as it is, in a folder that one may only read, too.
    with nullcontext() if (folder.path / "result.json").exists() else folder.lock(on_wait):
        folder.check_whole()
        check_resumable(folder, dataset, network)
        if folder.result is None:
            folder.clear_leftovers()
            folder.describe(config, dataset, device, network, run_notes(config, dataset))
        yield folder


class _Keeper:
    """Writes what a run reaches: each record at once, checkpoints with the records and at intervals, and the end."""

    def __init__(self, folder: RunWriter):
        self.folder = folder
        self.seconds: dict[str, float] = {}
        self.saved = time.monotonic()

    def keep(self, state: State | DivergedError) -> None:
        if isinstance(state, DivergedError):
            self.folder.finish({}, {"status": "diverged", "message": str(state)})
            return
        self.seconds = {name: self.seconds.get(name, 0.0) + value for name, value in state.seconds.items()}
        if state.record is not None:
            self.folder.append(state.record, self.seconds, state.snapshot or {})
            self.seconds = {}
        if state.finished:  # before the checkpoint: a run killed after its last one would have nothing left to do
            self.folder.finish(state.tensors, {"status": "finished", "epoch": state.epoch})
        if state.record is not None or time.monotonic() - self.saved > CHECKPOINT_SECONDS:
            self.folder.save_checkpoint(state.tensors)
            self.saved = time.monotonic()
