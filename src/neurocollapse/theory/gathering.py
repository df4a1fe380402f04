"""A network and its data into `Evidence`: one full gradient in float64, and what the classifier saw on the way."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .._errors import VerificationError
from ..networks import Homogeneity, captured_features, check_head, check_homogeneous, find_classifier
from ..statistics import Classifier
from ..training import FullBatch
from .evidence import Evidence, Parameter

#: Inputs that homogeneity is tried on, and deviations that float64 rounding does not explain.
_TRIED, _TOLERANCE = 20, 1e-9


def gather_evidence(objective: FullBatch) -> Evidence:
    """The evidence where the objective's network is.

    Layers are the trainable tensors of two or more dimensions, which must share one decay λ. Raises
    `VerificationError` where they do not.
    """
    classifier = _classifier(objective)
    with captured_features(classifier) as captured:
        _, gradient = objective.data_gradient()
    gradients = objective.split(gradient)
    parameters = [
        Parameter(name.removesuffix(".weight"), p.detach().cpu().clone(), gradients[name].cpu(), objective.decays[name])
        for name, p in objective.parameters.items()
    ]
    bias_decay = next((objective.decays[name] for name, p in objective.parameters.items() if p is classifier.bias), 0.0)
    layers = tuple(p for p in parameters if p.value.ndim >= 2)
    return Evidence(
        weight_decay=_common_decay(layers),
        layers=layers,
        others=tuple(p for p in parameters if p.value.ndim < 2),
        features=torch.cat(captured).cpu(),
        labels=objective.labels.cpu(),
        classifier=Classifier(classifier.weight.cpu(), None if classifier.bias is None else classifier.bias.cpu()),
        bias_decay=bias_decay,
        frozen=tuple(name for name, p in objective.model.named_parameters() if not p.requires_grad),
    )


def _classifier(objective: FullBatch) -> nn.Linear:
    return find_classifier(objective.model, objective.inputs[:_TRIED])


def _common_decay(layers: tuple[Parameter, ...]) -> float:
    decays = {layer.decay: layer.name for layer in layers}
    if len(decays) != 1:
        each = ", ".join(f"{name}: {decay:g}" for decay, name in decays.items())
        raise VerificationError(
            f"the layers decay differently ({each or 'none is trained'}), and the theory has one λ for all of them"
        )
    return next(iter(decays))


def check_evaluates(objective: FullBatch) -> None:
    """That the network gives finite outputs of its last linear layer, which trains, for labels that it has classes for.

    Raises `VerificationError`, `NetworkError`.
    """
    classifier = _classifier(objective)
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
    """None for a network that is homogeneous in every layer, apart from the classifier's bias.

    For another one, what is wrong with it where `force` is set. Raises `VerificationError` where it is not.
    """
    fault = _fault(homogeneity_without_bias(objective.model, objective.inputs[:_TRIED]))
    if fault is None or force:
        return fault
    raise VerificationError(
        f"{fault}; the theory is about homogeneous networks (to see the numbers anyway: --force, or force=True)"
    )


def homogeneity_without_bias(model: nn.Module, inputs: Float[Tensor, "samples *shape"]) -> Homogeneity:
    """`check_homogeneous` of f − b, the classifier's bias b taken off."""
    bias = find_classifier(model, inputs).bias
    if bias is None:
        return check_homogeneous(model, inputs)
    kept = bias.detach().clone()
    with torch.no_grad():
        bias.zero_()
        found = check_homogeneous(model, inputs)
        bias.copy_(kept)
    return found


def _fault(found: Homogeneity) -> str | None:
    """The largest deviation in words; none where outputs are all zero, which tell nothing."""
    deviations: Mapping[str, float] = {
        "in its inputs": found.by_input,
        **{f"in layer {name}": deviation for name, deviation in found.by_layer.items()},
    }
    where, deviation = max(deviations.items(), key=lambda item: -1.0 if math.isnan(item[1]) else item[1])
    if math.isnan(deviation) or deviation <= _TOLERANCE:
        return None
    return f"the network is not homogeneous {where}: that scaled by α, its outputs miss α f by {deviation:.2g} of ‖α f‖"
