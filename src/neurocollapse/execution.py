"""A configuration trained into its folder: begun, gone on with, or left alone where it has ended."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from .datasets import Dataset
from .probing import fingerprint, run_notes
from .store import RunFolder, run_id
from .training import DivergedError, RunConfig, State, train

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

    Raises `StoreError` where the folder holds the same configuration on other data or of another network, or is
    damaged, and `WriteError` where it cannot be written.
    """
    folder = RunFolder(out / run_id(config, dataset))
    network = fingerprint(config, dataset)
    with folder.lock(on_wait):
        folder.check_whole()
        folder.check_same(dataset, network)
        if folder.result is not None:
            return folder
        folder.clear_leftovers()
        folder.describe(config, dataset, device, network, run_notes(config, dataset))
        try:
            _train_into(folder, train(config, dataset, resume=folder.resume_point(), device=device), on_state)
        except DivergedError as error:
            folder.finish({}, {"status": "diverged", "message": str(error)})
    return folder


def _train_into(folder: RunFolder, states: Iterator[State], on_state: Callable[[State], None]) -> None:
    seconds: dict[str, float] = {}
    saved = time.monotonic()
    for state in states:
        seconds = {name: seconds.get(name, 0.0) + value for name, value in state.seconds.items()}
        if state.record is not None:
            folder.append(state.record, seconds)
            seconds = {}
        if state.finished:  # before the checkpoint: killed between the two, a run would find nothing left to do
            folder.finish(state.tensors, {"status": "finished", "epoch": state.epoch})
        if state.record is not None or time.monotonic() - saved > CHECKPOINT_SECONDS:
            folder.save_checkpoint(state.tensors)
            saved = time.monotonic()
        on_state(state)
