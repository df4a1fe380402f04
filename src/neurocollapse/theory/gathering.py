"""Gathers `Evidence` from a network and its data, by one full gradient in float64."""

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .._errors import VerificationError
from ..networks import (
    captured_features,
    check_head,
    check_homogeneous,
    find_classifier,
    find_inhomogeneous,
    find_linear_tail,
    in_training,
)
from ..statistics import Classifier
from ..training import FullBatch
from .evidence import Evidence, Parameter

#: How many inputs homogeneity is tried on, and the largest deviation that float64 rounding explains.
_TRIED, _TOLERANCE = 20, 1e-9


def gather_evidence(objective: FullBatch) -> Evidence:
    """Gathers the evidence at the current weights of the objective's network.

    Layers are the trainable tensors of two or more dimensions.
    """
    classifier = _classifier(objective)
    tail = find_linear_tail(objective.model, objective.inputs[:_TRIED])
    with ExitStack() as stack:
        modules = [objective.model.get_submodule(name) for name in tail.layers]
        captured, *below = [stack.enter_context(captured_features(module)) for module in (classifier, *modules)]
        _, gradient = objective.data_gradient()
    gradients = objective.split(gradient)
    parameters = [
        Parameter(name.removesuffix(".weight"), p.detach().cpu().clone(), gradients[name].cpu(), objective.decays[name])
        for name, p in objective.parameters.items()
    ]
    bias_decay = next((objective.decays[name] for name, p in objective.parameters.items() if p is classifier.bias), 0.0)
    return Evidence(
        layers=tuple(p for p in parameters if p.value.ndim >= 2),
        others=tuple(p for p in parameters if p.value.ndim < 2),
        features=torch.cat(captured).cpu(),
        labels=objective.labels.cpu(),
        classifier=Classifier(classifier.weight.cpu(), None if classifier.bias is None else classifier.bias.cpu()),
        bias_decay=bias_decay,
        bias_trains=classifier.bias is not None and classifier.bias.requires_grad,
        frozen=tuple(name for name, p in objective.model.named_parameters() if not p.requires_grad),
        classifier_name=next(
            name.removesuffix(".weight") for name, p in objective.parameters.items() if p is classifier.weight
        ),
        differs_in_training=_differs_in_training(objective),
        tail=tail,
        tail_inputs=tuple(torch.cat(inputs).cpu() for inputs in below),
    )


def _differs_in_training(objective: FullBatch) -> bool:
    """Whether outputs differ in training mode; False where the model's own code refuses, as for want of targets."""
    inputs = objective.inputs[:_TRIED]
    with torch.no_grad(), torch.random.fork_rng(devices=[inputs.device] if inputs.is_cuda else []):
        outputs = objective.model(inputs)
        try:
            trained = in_training(objective.model)(inputs)
        except Exception:
            return False
    return not (isinstance(trained, Tensor) and trained.shape == outputs.shape and torch.allclose(trained, outputs))


def _classifier(objective: FullBatch) -> nn.Linear:
    return find_classifier(objective.model, objective.inputs[:_TRIED])


def check_evaluates(objective: FullBatch) -> None:
    """Checks that the network's outputs are finite, come from a trainable linear layer, and cover all labels.

    Raises `VerificationError` or `NetworkError` if not.
    """
    classifier = _classifier(objective)
    if "weight" not in classifier._parameters:
        raise VerificationError(
            "the last linear layer computes its weight from other parameters, and the theory is about a weight that is "
            "trained itself"
        )
    if not classifier.weight.requires_grad:
        raise VerificationError(
            f"the last linear layer, {classifier}, is frozen, and the theory is about one that trains; let it train"
        )
    low, high = int(objective.labels.min()), int(objective.labels.max())
    if low < 0 or high >= classifier.out_features:
        raise VerificationError(
            f"labels go from {low} to {high}, but the network has {classifier.out_features} outputs; number the "
            f"classes from 0"
        )
    with torch.no_grad(), captured_features(classifier) as captured:
        outputs = objective.model(objective.inputs[:_TRIED])
    check_head(outputs, captured, classifier)
    points = [objective.point, objective.inputs, outputs]
    for what, values in zip(("weights", "inputs", "outputs"), points, strict=True):
        if not values.isfinite().all():
            raise VerificationError(f"the network's {what} are not finite; it has diverged, or was given such data")


def check_theory_applies(objective: FullBatch, *, force: bool) -> str | None:
    """Checks that the network is homogeneous in every layer, apart from the classifier's bias.

    Returns None if it is. If not, raises `VerificationError` or, with `force`, returns what is wrong.
    """
    inputs = objective.inputs[:_TRIED]
    with _no_classifier_bias(objective.model, inputs):
        fault = _fault(objective.model, inputs)
    if fault is None or force:
        return fault
    raise VerificationError(f"{fault}; the theory is about homogeneous networks (to see the numbers anyway: force)")


@contextmanager
def _no_classifier_bias(model: nn.Module, inputs: Float[Tensor, "samples *shape"]) -> Iterator[None]:
    """Makes the network f − b, without the classifier's bias b, within the block."""
    bias = find_classifier(model, inputs).bias
    kept = None if bias is None else bias.detach().clone()
    try:
        if bias is not None:
            nn.init.zeros_(bias)
        yield
    finally:
        if bias is not None and kept is not None:
            bias.data.copy_(kept)


def _fault(model: nn.Module, inputs: Float[Tensor, "samples *shape"]) -> str | None:
    """Describes the largest deviation; None if it is rounding, or if all outputs are zero, which show nothing."""
    found = check_homogeneous(model, inputs)
    deviations: Mapping[str, float] = {
        "in its inputs": found.by_input,
        **{f"in layer {name}": deviation for name, deviation in found.by_layer.items()},
    }
    where, deviation = max(deviations.items(), key=lambda item: -1.0 if math.isnan(item[1]) else item[1])
    if math.isnan(deviation) or deviation <= _TOLERANCE:
        return None
    breaker = find_inhomogeneous(model, inputs)
    because = f", because of {breaker}" if breaker else ""
    return (
        f"the network is not homogeneous {where}{because}: when that is scaled by α, its outputs miss α f by "
        f"{deviation:.2g} of ‖α f‖"
    )
