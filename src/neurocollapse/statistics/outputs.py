"""Moments of the classifier's outputs, accumulated over batches."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .batches import check_scale
from .moments import Moments
from .values import Outputs


@dataclass
class OutputSums:
    """Accumulates the moments of the gap, the off-class outputs and the margin, and counts correct decisions."""

    gap: Moments = field(default_factory=Moments)
    off: Moments = field(default_factory=Moments)
    margin: Moments = field(default_factory=Moments)
    margin_min: float = float("inf")
    correct: int = 0

    def update(
        self,
        outputs: Float[Tensor, "samples classes"],
        decisions: Int[Tensor, " samples"],
        labels: Int[Tensor, " samples"],
    ) -> None:
        """Folds in a batch of outputs, given in float64. Overwrites `outputs` to save memory."""
        own_column = labels[:, None]
        own = outputs.gather(1, own_column).squeeze(1)
        margins = own - outputs.scatter_(1, own_column, -torch.inf).amax(dim=1)
        num_off = outputs.numel() - len(labels)
        off_mean = outputs.scatter_(1, own_column, 0.0).sum() / num_off
        off_squares = outputs.sub_(off_mean).scatter_(1, own_column, 0.0).square().sum()
        self.gap.merge(Moments.of(1 - own))
        self.off.merge(Moments(num_off, off_mean.item(), off_squares.item()))
        self.margin.merge(Moments.of(margins))
        self.margin_min = min(self.margin_min, margins.min().item())
        self.correct += int((decisions == labels).sum())

    def merge(self, other: "OutputSums") -> None:
        """Folds in the sums of other samples."""
        self.gap.merge(other.gap)
        self.off.merge(other.off)
        self.margin.merge(other.margin)
        self.margin_min = min(self.margin_min, other.margin_min)
        self.correct += other.correct

    def state(self) -> Float[Tensor, " numbers"]:
        """Everything gathered, in float64, which holds the counts exactly."""
        moments = [number for m in (self.gap, self.off, self.margin) for number in (m.count, m.mean, m.squares)]
        return torch.tensor([*moments, self.margin_min, self.correct], dtype=torch.float64)

    @classmethod
    def of_state(cls, state: Float[Tensor, " numbers"]) -> "OutputSums":
        """Restores the sums from their `state`."""
        *numbers, margin_min, correct = state.tolist()
        gap, off, margin = (
            Moments(int(n), mean, squares) for n, mean, squares in zip(*[iter(numbers)] * 3, strict=True)
        )
        return cls(gap, off, margin, margin_min, int(correct))

    def compute(self) -> Outputs:
        """Means and standard deviations of all samples seen. Raises `ValueError` if their squares overflow."""
        sizes = self.gap.mean, self.gap.deviation, self.off.mean, self.off.deviation, self.margin_min
        check_scale("outputs", max(1.0, *map(abs, sizes)))
        return Outputs(
            gap_mean=self.gap.mean,
            gap_deviation=self.gap.deviation,
            off_mean=self.off.mean,
            off_deviation=self.off.deviation,
            margin_min=self.margin_min,
            margin_mean=self.margin.mean,
            accuracy=self.correct / self.gap.count,
        )
