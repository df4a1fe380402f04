"""The sum of the classifier's rows, s = Σ_c W^c, under the cross-entropy: weight decay alone moves it.

The shares that softmax gives to the classes sum to 1, so Σ_c ∂L_data/∂W^c = 0 for every batch, whatever the labels. So
a whole run of SGD is known from its configuration and first weights: see `training.decay_alone`. Adam, whose step
divides each entry by its own size, has no such law.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from .comparison import Comparison, compare
from .identities import ROUNDING

SUMS = "the sum of the classifier's rows, in the whole run"

_REFERENCE = "cross-entropy and decay"


def sum_of_gradients(gradient: Float[Tensor, "classes features"]) -> Comparison:
    """Σ_c ∂L_data/∂W^c = 0; the residual is relative to the sum of the norms of the rows."""
    scale = torch.linalg.norm(gradient, dim=1).sum().item()
    measured = gradient.sum(dim=0, keepdim=True)
    zero = torch.zeros_like(measured)
    return compare("Σ_c ∂L_data/∂W^c", zero, measured, tells=ROUNDING, reference=_REFERENCE, scale=scale or math.nan)


def sums_along_training(
    start: Float[Tensor, " features"],
    factors: Sequence[float],
    measured: Mapping[int, Float[Tensor, " features"] | float],
) -> Iterator[Comparison]:
    """s at each of these epochs is s(0) times a number; the residual is ‖s − ŝ‖/‖s(0)‖.

    Args:
        start: s(0).
        factors: what decay alone makes of 1, by epoch.
        measured: s by epoch, or ‖s‖ where only that is known.
    """
    scale = torch.linalg.norm(start).item() or math.nan
    for epoch, s in measured.items():
        predicted = factors[epoch] * start[None]
        if not isinstance(s, Tensor):
            predicted = torch.linalg.norm(predicted)[None, None]
        values = s[None] if isinstance(s, Tensor) else torch.tensor([[s]], dtype=torch.float64)
        name = f"‖Σ_c W^c‖ at epoch {epoch}"
        yield compare(name, predicted, values, tells=ROUNDING, reference=_REFERENCE, scale=scale)
