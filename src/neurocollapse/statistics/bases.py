"""A basis in which the variances of features are alike, so that sums of their products lose no digits."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..geometry import EPSILON

#: Variances in different directions may be this many times apart before another basis is taken.
_FAR_APART = 1e9
#: Every direction must stand out so far from rounding: one that does not would be enlarged to look like the others.
_CLEAR = 100.0


@dataclass(frozen=True)
class Basis:
    """The linear map h ↦ h `forward` of features, with its inverse."""

    forward: Float[Tensor, "features features"]
    inverse: Float[Tensor, "features features"]
    #: how much of the smallest deviation that was made like the others may be rounding
    error: float

    def to(self, other: "Basis | None") -> Float[Tensor, "features features"]:
        """The map from the coordinates of this basis to those of another; None is the features' own."""
        return self.inverse if other is None else self.inverse @ other.forward


def basis_for(
    rows: Float[Tensor, "samples features"], reach: Float[Tensor, " features"], precision: float
) -> Basis | None:
    """Returns a basis for features like these rows, of which there are p or more; None if they need none.

    In it the rows X are the orthogonal Q of X = QR. Features are first divided by their sizes, as powers of two. There
    is no basis either if the features, to rounding, depend on one another.

    Args:
        rows: h − μ_c.
        reach: the largest |μ_c| of each feature, by which its values are rounded.
        precision: ε of the type that features were stored in.
    """
    squares = rows.T @ rows
    squares.diagonal().masked_fill_(squares.diagonal() == 0, squares.max())  # features that are constant do no harm
    factor, failed = torch.linalg.cholesky_ex(squares)
    pivots = factor.diagonal().square()  # they are no further apart than the eigenvalues
    if not failed and pivots.max() < _FAR_APART * pivots.min():
        return None
    lengths = torch.linalg.norm(rows, dim=0)
    noise = precision * (lengths + len(rows) ** 0.5 * reach)
    sizes = torch.where(lengths > noise, lengths, noise / EPSILON).log2().round().exp2()
    sizes = sizes.masked_fill(sizes == 0, 1.0)
    R = torch.linalg.qr(rows / sizes, mode="r").R
    values = R.diagonal().abs()
    floor = torch.linalg.norm(noise / sizes) + len(values) * EPSILON * values.max()
    if not (values > _CLEAR * floor).all():
        return None
    R = R / len(rows) ** 0.5
    forward = torch.linalg.solve_triangular(R, torch.eye(len(R)).to(R), upper=True) / sizes[:, None]
    return Basis(forward, R * sizes, (floor / precision * EPSILON / values.min()).item())
