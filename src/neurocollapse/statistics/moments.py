"""Mean and standard deviation of a scalar, in parts that merge."""

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Moments:
    """Count, mean and sum of squared deviations of a scalar, merged as in Chan, Golub and LeVeque (1983)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, values: Tensor) -> "Moments":
        """The moments of these values."""
        mean = values.mean()
        return cls(values.numel(), mean.item(), (values - mean).square().sum().item())

    def merge(self, other: "Moments") -> None:
        """Folds in the moments of other values."""
        count = self.count + other.count
        if count:
            difference = other.mean - self.mean
            self.squares += other.squares + difference * difference * self.count * other.count / count
            self.mean += difference * other.count / count
            self.count = count

    @property
    def deviation(self) -> float:
        """The population standard deviation."""
        return (self.squares / self.count) ** 0.5
