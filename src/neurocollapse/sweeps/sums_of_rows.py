"""Predicts the sum of the classifier's rows along a run on the cross-entropy, from its configuration and seed."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .._errors import VerificationError
from ..datasets import Dataset
from ..networks import captured_features, find_classifier
from ..theory import SUMS, TheoryTable, check_evaluates, sum_of_gradients, sums_along_training
from ..training import FullBatch, RunConfig, decay_alone, first_network
from .folder import RunFolder

#: Σ_c W^c by epoch: the vector, its norm where only that was kept, or None where neither was.
Sums = Mapping[int, Float[Tensor, " features"] | float | None]

#: A snapshot keeps the Gram matrix of so many rows, and so the norm of the sum of all rows if there are no more.
_ROWS_KEPT = 10


def check_predicted(config: RunConfig) -> None:
    """Raises `VerificationError` for a run on the cross-entropy in which more than decay moves Σ_c W^c."""
    for name, predicted in (("optimizer", ("sgd", "sgdw")), ("balancing", ("none",))):
        if config.loss != "square" and (value := getattr(config, name)) not in predicted:
            raise VerificationError(
                f"the run's loss is {config.loss}, and the theory is about the square loss; of other runs only Σ_c W^c "
                f"is predicted, with {name} {' or '.join(predicted)}, and this one has {value}"
            )


def table_of_sums(config: RunConfig, objective: FullBatch, dataset: Dataset, sums: Sums) -> TheoryTable:
    """Returns the table of a run on the cross-entropy; `objective` is at its last weights, `sums` are those recorded.

    Where the last sum is not recorded as a vector, it is that of the weights, and the first that of the seed. Raises
    `VerificationError` if the classifier's weight acts elsewhere in the network too.
    """
    check_evaluates(objective)
    inputs, last = objective.inputs[:2], max(sums)
    classifier = find_classifier(objective.model, inputs)
    weight = classifier.weight.detach().cpu()
    start = sums.get(0)
    if not isinstance(start, Tensor):
        start = _row_sum(first_network(config, dataset), dataset.train.images_at(slice(2)))
    measured = {epoch: s for epoch, s in sums.items() if s is not None}
    if not isinstance(sums[last], Tensor):
        measured[last] = weight.sum(dim=0)
    of_classifier = _gradient_of(classifier, objective).cpu()
    factors = decay_alone(config, last, len(objective.labels))
    rows = (sum_of_gradients(of_classifier), *sums_along_training(start, factors, measured))
    size = (torch.linalg.norm(weight) * math.sqrt(len(weight))).item()
    nc0 = torch.linalg.norm(weight.sum(dim=0)).item() / size if size else math.nan
    note = f"the loss is {config.loss}, and the theory's other statements are about the square loss"
    return TheoryTable({SUMS: rows}, {"λ": config.weight_decay, "nc0": nc0}, (note,))


def _gradient_of(classifier: nn.Linear, objective: FullBatch) -> Float[Tensor, "classes features"]:
    """Returns ∂L_data/∂W of the classifier. Raises `VerificationError` if W does more than give the outputs."""
    with captured_features(classifier) as captured:
        _, gradient = objective.data_gradient()
    found = next(
        part for name, part in objective.split(gradient).items() if objective.parameters[name] is classifier.weight
    )
    features = torch.cat(captured)
    outputs = classifier(features).detach().requires_grad_()
    (errors,) = torch.autograd.grad(objective.loss(outputs, objective.labels) / len(outputs), outputs)
    size = torch.linalg.norm(errors, dim=1) @ torch.linalg.norm(features, dim=1)
    if torch.linalg.norm(found - errors.T @ features) > 1e-9 * size:
        raise VerificationError(
            f"the weight of the last linear layer, {classifier}, acts elsewhere in the network too, as where it is "
            f"tied to another layer's; then more than decay moves Σ_c W^c, and nothing is predicted of this run"
        )
    return found


def _row_sum(model: nn.Module, inputs: Tensor) -> Float[Tensor, " features"]:
    return find_classifier(model, inputs).weight.detach().double().sum(dim=0)


def recorded_sums(folder: RunFolder) -> Sums:
    """Returns Σ_c W^c at each record of a run. Earlier versions kept only what gives its norm, in float32."""
    records = folder.records()
    grams = {epoch: kept["weight_gram"] for epoch, kept in folder.snapshots().items()}
    found: dict[int, Tensor | float | None] = {}
    for record in records:
        epoch = record["epoch"]
        if "classifier_sum" in record:
            found[epoch] = torch.tensor(record["classifier_sum"], dtype=torch.float64)
        elif folder.description["num_classes"] <= _ROWS_KEPT and epoch in grams:
            found[epoch] = math.sqrt(max(float(grams[epoch].sum(dtype="float64")), 0.0))
    found.setdefault(records[-1]["epoch"], None)
    return found
