"""Makes the theory table of a network in memory."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import VerificationError
from ..datasets import Split
from ..measuring import as_loader, batches, warn_of
from ..networks import unwrap
from ..training import FullBatch
from .gathering import check_evaluates, check_theory_applies, gather_evidence
from .table import TheoryTable, theory_table


def verify_model(
    model: nn.Module, loader: Iterable[Any] | Split, weight_decay: float | torch.optim.Optimizer, *, force: bool = False
) -> TheoryTable:
    """Makes the theory table of a model on the samples of a loader; see `verify`."""
    loader = as_loader(loader)
    warn_of(loader, stacklevel=4)
    model = unwrap(model)
    decays, doubt = decays_of(model, weight_decay, force=force)
    inputs, labels = _all_of(loader, model)
    return table_of(_objective(model, inputs, labels, decays), force=force, doubt=doubt)


def _objective(model: nn.Module, inputs: Tensor, labels: Tensor, decays: dict[str, float]) -> FullBatch:
    try:
        return FullBatch(model, inputs, labels, decays)
    except RuntimeError as error:
        if "deepcopy" not in str(error):
            raise
        raise VerificationError(
            "verify works on a copy, and this model cannot be copied: it keeps a tensor that was computed from its "
            "parameters, as torch.nn.utils.weight_norm and prune do; take these off first"
        ) from error


def table_of(objective: FullBatch, *, force: bool, doubt: str | None = None) -> TheoryTable:
    """Makes the table at the current weights; a `doubt`, given or found under `force`, marks every row."""
    check_evaluates(objective)
    doubt = doubt or check_theory_applies(objective, force=force)
    return theory_table(gather_evidence(objective), doubt=doubt)


def decays_of(
    model: nn.Module, weight_decay: float | torch.optim.Optimizer, *, force: bool
) -> tuple[dict[str, float], str | None]:
    """λ of every trainable parameter, by name, and, under `force`, the reason why the theory may not apply."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if lazy := [name for name, p in trained.items() if nn.parameter.is_lazy(p)]:
        raise VerificationError(f"{lazy[0]} has no shape yet; run the model on a batch first")
    if not isinstance(weight_decay, torch.optim.Optimizer):
        if not isinstance(weight_decay, int | float) or not 0 <= weight_decay < float("inf"):
            raise VerificationError(
                f"weight_decay is λ of Eq. 1, a finite number from 0, or the optimizer; got {weight_decay!r}"
            )
        return dict.fromkeys(trained, float(weight_decay)), None
    doubt = _doubt_of(weight_decay, force=force)
    by_parameter = {
        id(p): float(group.get("weight_decay", 0.0)) for group in weight_decay.param_groups for p in group["params"]
    }
    if trained and not any(id(p) in by_parameter for p in trained.values()):
        raise VerificationError(
            "the optimizer has none of the model's parameters: it was made for another model, or before this one was "
            "copied or loaded; pass λ as a number"
        )
    return {name: by_parameter.get(id(p), 0.0) for name, p in trained.items()}, doubt


def doubt_of_decoupled(name: str, *, force: bool) -> str:
    """Says why the theory does not apply to decoupled decay. Raises `VerificationError` unless `force` is set."""
    doubt = f"{name} decouples its decay from the gradient, so that it does not end where ∇L = 0"
    if not force:
        raise VerificationError(
            f"{doubt}, and the theory does not cover it; train with coupled decay, SGD's or Adam's weight_decay "
            f"(to see the numbers anyway: force)"
        )
    return doubt


#: The optimizers whose weight_decay λ adds λW to the gradient, unless a group of parameters says otherwise.
_COUPLED = (
    torch.optim.SGD,
    torch.optim.ASGD,
    torch.optim.Adam,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.Adamax,
    torch.optim.Adagrad,
    torch.optim.Adadelta,
    torch.optim.RMSprop,
)
#: Those that shrink the weights instead. Not every version of PyTorch has all.
_DECOUPLED = tuple(getattr(torch.optim, name) for name in ("AdamW", "Adafactor", "Muon") if hasattr(torch.optim, name))


def _doubt_of(optimizer: torch.optim.Optimizer, *, force: bool) -> str | None:
    """Says why the theory may not apply to an optimizer's decay; None if it does, or if there is no decay."""
    if not any(group.get("weight_decay") for group in optimizer.param_groups):
        return None
    name = type(optimizer).__name__
    decoupled = any(group.get("decoupled_weight_decay") for group in optimizer.param_groups)
    if decoupled or isinstance(optimizer, _DECOUPLED):
        return doubt_of_decoupled(name, force=force)
    if isinstance(optimizer, _COUPLED):
        return None
    doubt = f"it is not known how {name} applies its weight decay"
    if not force:
        raise VerificationError(
            f"{doubt}; if it adds λW to the gradient, as SGD does, pass λ as a number (to see the numbers anyway: "
            f"force)"
        )
    return doubt


def _all_of(loader: Iterable[Any], model: nn.Module) -> tuple[Tensor, Tensor]:
    inputs, labels = [], []
    device = next(model.parameters()).device
    for batch in batches(loader, model):
        if len(batch.args) != 1 or batch.kwargs or not isinstance(batch.args[0], Tensor):
            raise VerificationError("verify takes a loader of (inputs, labels) with one tensor of inputs")
        inputs.append(batch.args[0].to(device))
        labels.append(batch.labels.to(device))
    return torch.cat(inputs), torch.cat(labels)
