"""Trains one run from its configuration to its end, in memory or on disk."""

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
from torch import nn

from .._errors import DivergedError, checks_arguments
from .._files import path_of
from .._html import Brief
from .._progress import Progress
from ..datasets import Dataset
from ..training import Record, RunConfig, epochs, network_of, training_data
from .engines.events import Event
from .engines.work import epoch_event
from .folder import RunFolder
from .frame import frame_of, record_rows, records_frame
from .identity import run_id
from .resuming import execute
from .tensors import load_weights, model_weights
from .watching import run_labels, watched


@dataclass(frozen=True, repr=False)
class TrainedRun(Brief):
    """A run that has ended, with its records and its trained model."""

    config: RunConfig
    status: str
    """"finished" or "diverged"."""
    records: pd.DataFrame
    """One row for each measured epoch, with the columns of `runs`."""
    model: nn.Module | None
    """The trained module in evaluation mode; None if the run diverged."""
    dataset: Dataset
    """The data that it was trained and tested on."""
    folder: RunFolder | None
    """The run's folder; None if the run was kept in memory alone."""
    message: str = ""
    """Why the run diverged."""


@checks_arguments
def train(
    config: RunConfig,
    *,
    out: Path | str | None = None,
    dataset: Dataset | None = None,
    data_dir: Path | str | None = None,
    device: str = "cpu",
    progress: bool | None = None,
) -> TrainedRun:
    """Trains one configuration to its end.

    Args:
        config: the configuration of the run.
        out: a folder to keep the run in, as `out`/<run-id>; the same call resumes a run that was stopped, and returns
            at once if it has ended. None keeps the run in memory alone.
        dataset: the data, in place of the data set that the configuration names.
        data_dir: the folder that holds published data sets, or that they are downloaded to.
        device: "cpu", "cuda" or "cuda:1".
        progress: whether to show progress; by default in a terminal and in a notebook.

    Returns:
        A `TrainedRun`. A run that diverges has the status "diverged" and gives a warning. `epochs` yields every epoch
        instead.

    Raises:
        NeurocollapseError: the data, the network or the folder cannot be used as asked.

    >>> run = train(RunConfig(dataset="gaussian", network="mlp", depth=2, width=8, epochs=10, learning_rate=0.01))
    >>> run.status, float(run.records["train.accuracy"].iloc[-1])
    ('finished', 1.0)
    """
    if dataset is None:
        dataset = training_data(config, path_of(data_dir))
    with watched([config], run_labels([config]), Progress(progress)) as show:
        if out is None:
            run = _in_memory(config, dataset, device, show)
        else:
            try:
                folder = execute(
                    config, dataset, path_of(out), device=device, on_state=lambda state: show(epoch_event(0, state))
                )
            except KeyboardInterrupt as stop:  # or a kind of it
                raise type(stop)(f"what was saved stays in {out}, and the same call resumes it") from None
            run = _from_disk(folder, dataset, device)
    if run.status == "diverged":
        warnings.warn(run.message, stacklevel=3)
    return run


def _in_memory(config: RunConfig, dataset: Dataset, device: str, show: Callable[[Event], None]) -> TrainedRun:
    records: list[Record] = []
    model: nn.Module | None = None
    status, message = "diverged", ""
    try:
        for state in epochs(config, dataset, device=device):
            show(epoch_event(0, state))
            if state.record is not None:
                records.append(state.record)
        model, status = network_of(config, dataset), "finished"
        model.load_state_dict(model_weights(state.tensors))
    except DivergedError as error:
        message = str(error)
    described = {"config": asdict(config), "num_classes": dataset.num_classes}
    frame = frame_of(record_rows(run_id(config, dataset), status, described, records))
    return TrainedRun(config, status, frame, model and model.to(device).eval(), dataset, None, message)


def _from_disk(folder: RunFolder, dataset: Dataset, device: str) -> TrainedRun:
    config, result = folder.config, folder.result or {}
    model = network_of(config, dataset) if folder.status == "finished" else None
    if model is not None:
        load_weights(model, folder)
        model.to(device).eval()
    return TrainedRun(config, folder.status, records_frame([folder]), model, dataset, folder, result.get("message", ""))
