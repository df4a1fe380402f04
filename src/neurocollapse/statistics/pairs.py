"""What the metrics say of pairs of class means, gathered over tiles: nothing of the size C × C is kept."""

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from ..geometry import Gram, Tile, shifted
from .moments import Moments


@dataclass
class MeanPairs:
    """Sums over pairs c < c' of class means.

    Two classes are one point if their means coincide, to rounding, and neither has spread, as tokens that were seen
    once and after the same words. Nothing tells these classes apart: the ratio of `nc1_cdnv` is 0/0, and the logarithm
    of `nc2_uniformity` has no bound. Such pairs are counted, and left out of both.
    """

    #: |cos(μ_c − μ_G, μ_c' − μ_G) + 1/(C−1)|
    cosines: float = 0.0
    cosine_max: float = 0.0
    #: (v_c + v_c') / (2‖μ_c − μ_c'‖²)
    ratios: float = 0.0
    #: log(1/‖u_c − u_c'‖) where it has a bound
    logs: Moments = field(default_factory=Moments)
    #: pairs of different means that have one direction
    unbounded: int = 0
    one_point: int = 0
    number: int = 0

    def add(
        self, tile: Tile, variances: Float[Tensor, " classes"], noise: Float[Tensor, " classes"], summing: float
    ) -> None:
        """Folds in the pairs of a tile; rounding may have moved each mean by up to `noise`, sums by `summing`.

        Directions of different means are those of the means as stored: what rounding makes of a logarithm is small.
        """
        cosines = shifted(tile.pairs(tile.cosines()), len(noise))
        self.cosines += cosines.sum().item()
        self.cosine_max = max(self.cosine_max, cosines.max().item(), key=lambda value: (math.isnan(value), value))
        self.number += len(cosines)
        rounding = tile.pairs(torch.maximum(*tile.of_pairs(noise)).square())
        squares, spread = tile.pairs(tile.squared_distances()), tile.pairs(torch.add(*tile.of_pairs(variances)))
        squares = squares.where(squares > rounding, 0.0)
        differ = (squares > 0) | (spread > rounding)
        self.ratios += (spread / (2 * squares))[differ].sum().item()
        self.one_point += len(differ) - int(differ.sum())
        of_directions = torch.maximum(*tile.of_pairs(summing / tile.gram.norms)).square()
        lengths = tile.squared_distances_of_directions()
        lengths = tile.pairs(lengths.masked_fill_(lengths <= of_directions, 0.0)).where(squares > 0, 0.0)
        logs = -lengths[differ].log() / 2
        self.unbounded += int(logs.isposinf().sum())
        if len(logs := logs[~logs.isposinf()]):
            self.logs.merge(Moments.of(logs))

    @property
    def cdnv(self) -> float:
        """The mean ratio; nan if all classes are one point."""
        return self.ratios / different if (different := self.number - self.one_point) else math.nan

    @property
    def cosine(self) -> float:
        """The mean of the shifted cosines."""
        return self.cosines / self.number

    @property
    def log_inverse_distance(self) -> tuple[float, float]:
        """Mean and standard deviation; inf and nan where two different means have one direction."""
        if math.isnan(self.logs.mean) or not self.number - self.one_point:
            return math.nan, math.nan
        return (math.inf, math.nan) if self.unbounded else (self.logs.mean, self.logs.deviation)


def mean_pairs(
    gram: Gram, variances: Float[Tensor, " classes"], noise: Float[Tensor, " classes"], summing: float
) -> MeanPairs:
    """Gathers the sums over all pairs of the rows of a Gram matrix, the centred class means."""
    gathered = MeanPairs()
    for tile in gram.tiles():
        gathered.add(tile, variances, noise, summing)
    return gathered
