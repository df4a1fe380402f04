"""A numerical solution of the unconstrained features model, beside the closed form."""

import math
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...geometry import EPSILON, Gram, pairs
from ...metrics import Measurement
from ...statistics import FULL_COVARIANCE_LIMIT, Classifier, ClassMeans, Objective, Projections
from ..comparison import Comparison, compare
from .closed_forms import closed_form
from .optimum import ClosedForm
from .problem import UnconstrainedModel

_UNDIRECTED = "W and the means are zero to the digits found: their angles are not compared, and metrics of them are nan"
_TELLS = "a point that is not the global minimum"
#: Geometry is not measured where rounding may have turned the rows of W by more than this share of their length.
_TURNED = 1e-3
_EQ3 = "Rangamani and Banburski-Fahey (2022), Eq. 3"


@dataclass(frozen=True, eq=False)
class Solution:
    """A minimum found from random starts: the layers, the class means, the bias, and measures of its quality."""

    model: UnconstrainedModel
    #: W_1, …, W_M
    layers: tuple[Float[Tensor, "_ _"], ...]
    #: μ_c, to which all features of class c are equal
    means: Float[Tensor, "classes features"]
    bias: Float[Tensor, " classes"] | None
    #: the objective, over all samples
    loss: float
    #: the gradient is over all layers, the features of all N samples and the bias; it is projected if H ≥ 0
    gradient_norm: float
    #: Newton steps from the start that gave the lowest loss
    iterations: int
    #: the final loss from each random start, in their order
    starts: tuple[float, ...]
    notes: tuple[str, ...] = ()

    @cached_property
    def weight(self) -> Float[Tensor, "classes features"]:
        """W_M ⋯ W_1."""
        product = self.layers[0]
        for layer in self.layers[1:]:
            product = layer @ product
        return product

    @property
    def features(self) -> Float[Tensor, "samples features"]:
        """The features, a row for each sample, in the order of `model.labels`."""
        return self.means[self.model.labels]

    @cached_property
    def class_outputs(self) -> Float[Tensor, "classes classes"]:
        """The outputs of the samples of each class, a row for each class."""
        outputs = self.means @ self.weight.T
        return outputs if self.bias is None else outputs + self.bias

    @cached_property
    def closed_form(self) -> ClosedForm | None:
        """The optimum in closed form; None if none is known."""
        return closed_form(self.model)

    @cached_property
    def directed(self) -> Bool[Tensor, " classes"]:
        """Whether the row of W and the mean of each class have a direction, and not only that of rounding.

        Near the decay at which a class collapses to zero, the objective is flat: at an output of size a its curvature
        is aλ_W, so a gradient that is not zero has moved the weights by ‖∇L‖/(aλ_W), which must be less than a
        thousandth of their length.
        """
        outputs = self.class_outputs - self.class_outputs.mean(dim=0)
        sizes = (outputs - outputs.mean(dim=1, keepdim=True)).diagonal().abs()
        slopes = self.model.weight_decay * torch.linalg.norm(self.weight, dim=1)
        return (EPSILON * slopes).clamp(min=self.gradient_norm) < _TURNED * sizes * slopes

    @cached_property
    def measurement(self) -> Measurement:
        """Every metric at the solution, where rows of W and means that have no direction are zero.

        For `loss` and `weight_norms` the features count as one more layer, √(λ_H/λ_W) H, as in Eq. 1. With
        cross-entropy these are absent.
        """
        model, labels, blurred = self.model, self.model.labels, ~self.directed[:, None]
        weight, features = self.weight.masked_fill(blurred, 0.0), self.means.masked_fill(blurred, 0.0)[labels]
        means = ClassMeans(model.num_classes)
        means.update(features, labels)
        whole = model.num_features <= FULL_COVARIANCE_LIMIT
        projections = Projections(means, Classifier(weight, self.bias), covariance=whole, held_out=False)
        projections.update(features, labels)
        norms = [layer.square().sum().item() for layer in self.layers]
        norms.append(model.feature_decay / model.weight_decay * self.features.square().sum().item())
        other = 0.0
        if self.bias is not None and model.bias_decay is not None:
            other = model.bias_decay / model.weight_decay * self.bias.square().sum().item()
        objective = Objective(model.weight_decay, tuple(norms), other) if model.loss == "square" else None
        return Measurement(projections.statistics(objective), means)

    @cached_property
    def comparisons(self) -> tuple[Comparison, ...]:
        """The closed form beside the numerical solution; empty if there is no closed form."""
        return () if self.closed_form is None else tuple(_compare(self, self.closed_form))

    def to_dict(self) -> dict[str, Any]:
        """The solution as plain numbers for JSON, without the matrices."""
        return {
            "model": asdict(self.model),
            "loss": self.loss,
            "gradient_norm": self.gradient_norm,
            "iterations": self.iterations,
            "starts": list(self.starts),
            "case": None if self.closed_form is None else self.closed_form.case,
            "notes": [*self.notes, *([] if self.directed.any() else [_UNDIRECTED])],
            "comparisons": [asdict(comparison) for comparison in self.comparisons],
            "measurement": self.measurement.to_dict(),
        }

    def _by_size(self) -> list[str]:
        """The lines of a table of the solution, with a row for the first class of each size."""
        outputs, rows = self.class_outputs, self.weight.square().sum(dim=1)
        means = self.means.square().sum(dim=1)
        lines = [f"{'class of':>10}{'own output':>16}{'largest other':>16}{'‖W^c‖²':>16}{'‖μ_c‖²':>16}"]
        for size in sorted(set(self.model.counts), reverse=True):
            c = self.model.counts.index(size)
            others = torch.cat([outputs[c, :c], outputs[c, c + 1 :]]).max()
            numbers = "".join(f"{value.item():>16.9g}" for value in (outputs[c, c], others, rows[c], means[c]))
            lines.append(f"{size:>10}{numbers}")
        keys = ("nc1", "nc2_equinorm", "nc2_cosine", "nc3", "nc3_centered")
        return [*lines, "  ".join(f"{key} {self.measurement[key]:.4g}" for key in keys)]

    def __str__(self) -> str:
        model = self.model
        counts = sorted(set(model.counts))
        per_class = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        best = sum(math.isclose(loss, self.loss, rel_tol=1e-8) for loss in self.starts)
        lines = [
            f"unconstrained features: {model.loss} loss, bias {model.bias}, features {model.features}, "
            f"{model.layers} linear layer{'s' * (model.layers > 1)}",
            f"{model.num_classes} classes ({per_class} each), {model.num_features} features, "
            f"λ_W = {model.weight_decay:g}, λ_H = {model.feature_decay:g}"
            + ("" if model.bias_decay is None else f", λ_b = {model.bias_decay:g}")
            + f", s = {model.s:.6g}",
            f"loss {self.loss:.12g}, gradient norm {self.gradient_norm:.1e}, {self.iterations} steps; "
            f"{best} of {len(self.starts)} random starts ended there",
        ]
        if self.comparisons:
            lines += ["", f"{'':<22}{'closed form':>16}{'found':>16}{'difference':>12}"]
            lines += [
                f"{c.name:<22}{c.predicted:>16.9g}{c.measured:>16.9g}{c.residual:>12.1e}" for c in self.comparisons
            ]
        else:
            lines += ["no closed form is known for this problem: these numbers are the solver's alone", ""]
            lines += self._by_size()
        notes = [*self.notes, *([] if self.directed.any() else [_UNDIRECTED])]
        return "\n".join([*lines, *(f"note: {note}" for note in notes)])


def _compare(solution: Solution, optimum: ClosedForm) -> list[Comparison]:
    model, C, measurement = solution.model, solution.model.num_classes, solution.measurement
    outputs, rows = solution.class_outputs, solution.weight.square().sum(dim=1)
    own, off = outputs.diagonal(), outputs[~torch.eye(C, dtype=torch.bool)].view(C, C - 1)
    row = partial(_row, reference=optimum.reference)
    compared = [
        row("loss", optimum.loss, solution.loss),
        row("own output", optimum.own_outputs, own, 1.0),
        row("off-class output", optimum.off_outputs, off, 1.0),
    ]
    if model.loss == "square":
        compared.append(row("gap ε", optimum.gaps, 1 - own))
        compared.append(row("sum of outputs", optimum.output_sums, outputs.sum(dim=1), 1.0))
    compared.append(row("‖W^c‖²", optimum.row_norms, rows, _unit(model)))
    means = solution.means.square().sum(dim=1)
    if optimum.bias is None and model.bias != "none":  # single ‖μ_c‖² are not unique either
        compared.append(row("‖M‖²", math.fsum(optimum.mean_norms), means.sum(), C / _unit(model)))
    else:
        compared.append(row("‖μ_c‖²", optimum.mean_norms, means, 1 / _unit(model)))
    if optimum.bias is not None and solution.bias is not None:
        compared.append(row("bias", optimum.bias, solution.bias, 1 / C))
    if solution.directed.any() and not math.isnan(optimum.nc3):
        compared.append(row("nc3", optimum.nc3, measurement["nc3"], 1.0))
    if solution.directed.any() and not math.isnan(optimum.row_cosine):
        compared.append(row("nc2_cosine_weight", optimum.nc2_cosine_weight, measurement["nc2_cosine_weight"], 1.0))
        compared.append(row("cos(W^c, W^c')", optimum.row_cosine, pairs(Gram(solution.weight).cosines()), 1.0))
    if model.loss == "square" and model.bias == "free":
        gap = measurement["sqi_gap"]
        predicted = (gap - C / (C - 1) * gap**2) / (C * model.weight_decay)
        compared.append(_row("Eq. 3: ‖W^c‖²", predicted, rows, _unit(model), reference=_EQ3))
    return compared


def _row(
    name: str, predicted: float | tuple[float, ...], measured: Tensor | float, size: float = 0.0, *, reference: str
) -> Comparison:
    """Compares relative to the larger of the predicted numbers and `size`, their order of magnitude in general."""
    found = torch.as_tensor(measured, dtype=torch.float64)
    values = torch.atleast_1d(torch.tensor(predicted, dtype=torch.float64))
    each = max(size, values.abs().max().item())
    if len(values.unique()) == 1:
        return compare(name, values[0].item(), found.flatten(), tells=_TELLS, reference=reference, scale=each)
    expected = values.view(-1, *[1] * (found.ndim - 1)).expand_as(found).flatten()
    scale = each * found.numel() ** 0.5
    return compare(name, expected, found.flatten(), tells=_TELLS, reference=reference, scale=scale)


def _unit(model: UnconstrainedModel) -> float:
    """√(n λ_H/λ_W), the order of ‖W^c‖² and 1/‖μ_c‖² for outputs of one and a single layer."""
    n = model.num_samples / model.num_classes
    return math.sqrt(n * model.feature_decay / model.weight_decay)
