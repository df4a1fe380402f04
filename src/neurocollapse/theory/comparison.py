"""A number that theory predicts, beside the one that was measured."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Comparison:
    """Predicted, measured, and how far apart they are, relative to the size of what was compared."""

    name: str
    predicted: float
    measured: float
    residual: float
    #: what a residual that is not rounding measures: the distance from a critical point, from SQI, from collapse
    tells: str
    #: where the prediction comes from
    reference: str

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Comparison":
        """From its fields, where numbers may be the strings "nan" and "inf" of JSON."""
        numbers = {name: float(values[name]) for name in ("predicted", "measured", "residual")}
        return cls(**{**values, **numbers})

    @property
    def digits(self) -> float:
        """To how many decimal digits the two agree, at most 16."""
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
    """‖predicted − measured‖ / `scale`, the scale being by default the larger of the two norms; 0 where both vanish.

    One number predicted for many is compared with each of them. Of vectors the mean is shown, of matrices the norm.
    Where what is compared is a small difference of large terms, `scale` is the size of those.
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
