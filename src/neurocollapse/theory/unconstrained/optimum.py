"""An optimum in closed form, and its notes."""

from dataclasses import dataclass

#: A note on optima that are not unique.
NOT_UNIQUE = "two classes: the bias and the single ‖μ_c‖ are not unique; this is the symmetric optimum"


@dataclass(frozen=True)
class ClosedForm:
    """An optimum in closed form: the quantities that all minimisers share, as plain numbers."""

    case: str
    #: the whole objective
    loss: float
    #: output of each class's samples for their own class
    own_outputs: tuple[float, ...]
    #: output of each class's samples for every other class
    off_outputs: tuple[float, ...]
    #: ‖W^c‖² of the product of all layers
    row_norms: tuple[float, ...]
    #: ‖μ_c‖²
    mean_norms: tuple[float, ...]
    #: cos(W^c, W^c') of every pair; nan where rows vanish
    row_cosine: float
    #: ‖W/‖W‖_F − Ṁᵀ/‖Ṁ‖_F‖_F; nan where these vanish
    nc3: float
    #: b_c of every class; None without a bias, or where it is not unique
    bias: float | None
    reference: str
    notes: tuple[str, ...] = ()

    @property
    def gaps(self) -> tuple[float, ...]:
        """ε of each class, 1 − its own output."""
        return tuple(1 - own for own in self.own_outputs)

    @property
    def output_sums(self) -> tuple[float, ...]:
        """1ᵀf of each class."""
        others = len(self.own_outputs) - 1
        return tuple(own + others * off for own, off in zip(self.own_outputs, self.off_outputs, strict=True))

    @property
    def nc2_cosine_weight(self) -> float:
        """|cos(W^c, W^c') + 1/(C−1)| of every pair."""
        return abs(self.row_cosine + 1 / (len(self.own_outputs) - 1))


def symmetric_outputs(num_classes: int, a: float, c: float, bias: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The outputs aP + cJ + b: for every class, a + (c − a)/C + b on the diagonal, and (c − a)/C + b off it."""
    off = (c - a) / num_classes + bias
    return (a + off,) * num_classes, (off,) * num_classes


def everything_collapses(because: str) -> str:
    """A note on optima that are zero."""
    return f"{because}: everything collapses to zero"
