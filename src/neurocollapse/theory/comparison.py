"""Compares a number that theory predicts with the one that was measured."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Comparison:
    """A predicted and a measured number, and how far apart they are, relative to the size of what was compared."""

    name: str
    predicted: float
    measured: float
    residual: float
    #: what a residual that is not rounding measures: the distance from a critical point, from SQI, from collapse
    tells: str
    #: where the prediction comes from
    reference: str

    @property
    def digits(self) -> float:
        """The number of decimal digits to which the two agree, at most 16."""
        if math.isnan(self.residual):
            return math.nan
        return min(16.0, max(0.0, -math.log10(self.residual))) if self.residual > 0 else 16.0


def compare(
    name: str,
    predicted: float | Float[Tensor, "*shape"],
    measured: float | Float[Tensor, "*shape"],
    *,
    tells: str,
    reference: str,
    scale: float | None = None,
) -> Comparison:
    """Compares a prediction with a measurement: the residual is ‖predicted − measured‖ / `scale`.

    By default `scale` is the larger of the two norms, and the residual is 0 if both vanish. Pass the size of the terms
    where a small difference of large terms is compared. A single number may be predicted for many measured ones. The
    comparison shows the mean of a vector and the norm of a matrix.
    """
    prediction = torch.as_tensor(predicted, dtype=torch.float64)
    measurement = torch.as_tensor(measured, dtype=torch.float64)
    of_one = prediction.ndim == 0
    prediction = prediction.expand_as(measurement)
    difference = torch.linalg.norm(prediction - measurement).item()
    if scale is None:
        scale = max(torch.linalg.norm(prediction).item(), torch.linalg.norm(measurement).item())
    else:
        scale *= measurement.numel() ** 0.5 if of_one else 1.0
    shown = torch.mean if measurement.ndim < 2 else torch.linalg.norm
    return Comparison(
        name,
        shown(prediction).item(),
        shown(measurement).item(),
        difference / scale if difference else 0.0,
        tells,
        reference,
    )
