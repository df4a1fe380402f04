"""The function `verify`, for a run on disk and for a model with its data."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .._errors import InputTypeError, RunError, VerificationError
from .._files import path_of
from ..theory import TheoryTable, verify_model
from .folder import RunFolder
from .theory_tables import verify_run


def verify(
    subject: Path | str | RunFolder | nn.Module,
    loader: Iterable[Any] | None = None,
    *,
    weight_decay: float | torch.optim.Optimizer | None = None,
    data_dir: Path | str | None = None,
    force: bool = False,
) -> TheoryTable:
    """Compares each identity and prediction of the theory with what a network shows; each row explains its residual.

    Args:
        subject: the folder of a finished run; or a model trained on the square loss that is bias-free and positively
            homogeneous in every layer. Its last linear layer may have a bias.
        loader: for a model, all its training data: batches of (inputs, labels).
        weight_decay: for a model, λ of Eq. 1, L = (1/2N) Σ‖f − y‖² + (λ/2) Σ‖W_l‖²; or the optimizer that trained it on
            that loss, whose parameter groups say what decays. With `nn.MSELoss`, a decay of w is λ = w·C/2.
        data_dir: for a run, the folder that holds mnist or cifar10.
        force: report also on networks and optimizers to which the theory does not apply, with every row marked.

    Returns:
        A `TheoryTable`: iterable over its `Comparison`s, printable, `to_frame()`, `to_dict()`. Everything is computed
        from one full gradient in float64.

    Raises:
        ValueError: the network is not homogeneous, the decay is decoupled, layers decay differently, or the run has no
            weights or other data; the message says what was found and what to do.

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
    if isinstance(subject, RunFolder):
        subject = subject.path
    if not isinstance(subject, str | Path):
        raise InputTypeError(f"verify takes a torch.nn.Module or the folder of a run, got {type(subject).__name__}")
    if loader is not None or weight_decay is not None:
        raise VerificationError("a run knows its data and its weight decay; leave out loader and weight_decay")
    folder = RunFolder(subject)
    if not folder.started:
        raise RunError(f"{folder.path} is not a run; name the folder of one, as `neurocollapse runs` lists them")
    return verify_run(folder, data_dir=None if data_dir is None else path_of(data_dir), force=force)
