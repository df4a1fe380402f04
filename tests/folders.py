"""Runs on disk: the folder of a configuration, and a run whose process died."""

from pathlib import Path

import pytest

from neurocollapse.datasets import Dataset, load_dataset
from neurocollapse.sweeps import run_id
from neurocollapse.sweeps.resuming import execute
from neurocollapse.sweeps.writing import RunWriter
from neurocollapse.training import RunConfig

GAUSSIAN = load_dataset("gaussian")


class Killed(BaseException):
    """Like SIGKILL in that nothing catches it."""


def folder_of(out: Path, config: RunConfig, dataset: Dataset = GAUSSIAN) -> RunWriter:
    return RunWriter(out / run_id(config, dataset))


def stopped_after(epoch: int, config: RunConfig, out: Path, dataset: Dataset = GAUSSIAN) -> RunWriter:
    """A run whose process died after that epoch was saved."""

    def on_state(state):
        if state.epoch == epoch:
            raise Killed

    with pytest.raises(Killed):
        execute(config, dataset, out, on_state=on_state)
    return folder_of(out, config, dataset)
