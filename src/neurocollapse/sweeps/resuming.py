"""Configurations trained into their folders: begun, gone on with, or left alone where they have ended."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from .._errors import DivergedError, RunError
from ..datasets import Dataset
from ..training import RunConfig, State, epochs, train_together
from .folder import RunFolder
from .identity import check_same, run_id
from .networks_tried import fingerprint, run_notes
from .writing import RunWriter

#: A long epoch is not lost for want of a record: a checkpoint is written at least this often.
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
    """Train into `out`/<run-id>: resume what was begun, leave alone what is finished.

    `on_state` sees every state after it is safe on disk. A run that diverges keeps its records and says so in
    result.json. Another process at the same run is waited for, after a call of `on_wait`.

    Raises `RunError` where the folder holds the same configuration on other data or of another network, or is
    damaged, and `WriteError` where it cannot be written.
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
    return folder


def execute_together(
    configs: Sequence[RunConfig],
    dataset: Dataset,
    out: Path,
    *,
    device: str = "cpu",
    on_wait: Callable[[], None] = lambda: None,
) -> Iterator[tuple[int, State | RunFolder | RunError]]:
    """Train configurations of one `stack_key` as one program, each into its folder as `execute` does.

    Yields the place in `configs` with each state after it is safe on disk, with the folder once the run has ended, or
    with what `execute` would raise of a folder that is damaged or another's; the others go on. Raises `WriteError`, and
    `NetworkError` for a network that cannot be stacked.
    """
    with ExitStack() as stack:
        folders = {}
        # In the order of their names: two that lock the same runs in another order would wait for each other.
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
            keepers[place].keep(arrived)
            if isinstance(arrived, State):
                yield todo[place], arrived
            if isinstance(arrived, DivergedError) or arrived.finished:
                yield todo[place], folders[todo[place]]


@contextmanager
def _opened(
    config: RunConfig, dataset: Dataset, out: Path, device: str, on_wait: Callable[[], None]
) -> Iterator[RunWriter]:
    """The run's folder, held against other processes, checked, and described unless the run has ended."""
    folder = RunWriter(out / run_id(config, dataset))
    network = fingerprint(config, dataset)
    with folder.lock(on_wait):
        folder.check_whole()
        check_same(folder, dataset, network)
        if folder.result is None:
            folder.clear_leftovers()
            folder.describe(config, dataset, device, network, run_notes(config, dataset))
        yield folder


class _Keeper:
    """Writes what a run arrives at: records at once, checkpoints with them and every so often, the end."""

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
        if state.finished:  # before the checkpoint: killed between the two, a run would find nothing left to do
            self.folder.finish(state.tensors, {"status": "finished", "epoch": state.epoch})
        if state.record is not None or time.monotonic() - self.saved > CHECKPOINT_SECONDS:
            self.folder.save_checkpoint(state.tensors)
            self.saved = time.monotonic()
