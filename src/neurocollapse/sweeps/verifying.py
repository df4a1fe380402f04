"""The function `verify`, for a run on disk and for a model with its data."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .._errors import RunError, VerificationError, checks_arguments
from .._files import path_of
from ..datasets import Split
from ..theory import TheoryTable, verify_model
from .folder import RunFolder, no_run
from .frame import folders
from .theory_tables import verify_run, verify_trained
from .trained import TrainedRun


@checks_arguments
def verify(
    subject: Path | str | RunFolder | TrainedRun | nn.Module,
    loader: Iterable[Any] | Split | None = None,
    *,
    weight_decay: float | torch.optim.Optimizer | None = None,
    data_dir: Path | str | None = None,
    force: bool = False,
) -> TheoryTable:
    """Compares each identity and prediction of the theory with what a network shows; each row explains its residual.

    Args:
        subject: a finished run, as `train` returns it, or its folder (of a run on the cross-entropy with SGD, Σ_c W^c
            at every record is predicted; in memory, at the last); or a model trained on the square loss that is
            bias-free and positively homogeneous in every layer. Its last linear layer may have a bias.
        loader: for a model, all its training data: batches of (inputs, labels), or a split of a `Dataset`.
        weight_decay: for a model, λ of Eq. 1, L = (1/2N) Σ‖f − y‖² + (λ/2) Σ‖W_l‖², with which everything that trains
            decays, the biases too; or the optimizer that trained it on that loss, whose parameter groups say what
            decays by how much: where layers differ, what SQI predicts is left out. With `nn.MSELoss`, a decay of w is
            λ = w·C/2.
        data_dir: for a run, the folder that holds the published files of its data set.
        force: report also on networks and optimizers to which the theory does not apply, with every row marked.

    Returns:
        A `TheoryTable`: iterable over its `Comparison`s, printable, `to_frame()`, `to_dict()`. Everything is computed
        from one full gradient in float64.

    Raises:
        ValueError: the network is not homogeneous, the decay is decoupled, or the run has no weights or other data; the
            message says what was found and what to do.

    >>> import neurocollapse as nc
    >>> network = nc.build_network("mlp", (16,), 4, depth=3, width=8)
    >>> data = nc.load_dataset("gaussian").train
    >>> table = nc.verify(network, [(data.images, data.labels)], weight_decay=1e-3)
    >>> max(row.residual for row in table.sections["identities, at every point"]) < 1e-12
    True
    """
    if isinstance(subject, nn.Module):
        if loader is None or weight_decay is None:
            lacking = "loader" if loader is None else "weight_decay"
            raise VerificationError(
                f"verify takes a model with its loader and weight_decay=, λ or the optimizer; got no {lacking}"
            )
        return verify_model(subject, loader, weight_decay, force=force)
    if loader is not None or weight_decay is not None:
        raise VerificationError("a run knows its data and its weight decay; leave out loader and weight_decay")
    if isinstance(subject, TrainedRun):
        last = int(subject.records["epoch"].max())
        return verify_trained(subject.config, subject.model, subject.dataset, last, force=force)
    folder = subject if isinstance(subject, RunFolder) else RunFolder(subject)
    if not folder.started:
        if folder.path.is_dir() and (within := folders(folder.path)):
            raise RunError(f"{folder.path} holds {len(within)} runs; pass one of them, such as {within[0].path}")
        raise RunError(f"{folder.path} is not a run: {no_run(folder.path)}")
    return verify_run(folder, data_dir=path_of(data_dir), force=force)
