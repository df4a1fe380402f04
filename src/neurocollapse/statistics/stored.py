"""Finds the precision of features from their type and, where it holds more digits than they have, from their values."""

from typing import Self

import torch
from torch import Tensor

from ..geometry import EPSILON

#: The types that values may have been rounded to before they were stored in a wider one, and integers of their sizes.
NARROW = {torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}

#: The last digits of each that are looked at. Sums leave zeros at the end of values that are smaller than their terms;
#: the short types have no digit to spare, as pixels from 0 to 255 have eight.
_LAST = {torch.float32: 0b1111, torch.float16: 1, torch.bfloat16: 1}

#: Numbers compared at once. Most values show at the first of them that they were not rounded.
_COMPARED = 2**15
#: So many last digits are enough to judge.
_ENOUGH = 2**15
#: Of values that were rounded, half or more have a last digit set; of others that a narrow type happens to hold, few.
_ROUNDED = 1 / 3


class Stored:
    """Gathers ε, the spacing of numbers at 1, of the coarsest type that features were stored in.

    Features keep the precision of a narrower type if that type holds every value, and if their last digits say that
    they were rounded to it. Whole numbers, and others that are multiples of one number, are exact: their last digits
    in that type are zero but for the largest values, which are not looked at.
    """

    def __init__(self) -> None:
        self.coarsest = EPSILON
        #: of each narrow type, the values that have its last digit and those that could; inf if it does not hold all
        self.digits = torch.zeros(len(NARROW), 2, dtype=torch.float64)

    def update(self, values: Tensor) -> None:
        """Folds in some values, of any float type."""
        self.at_least(torch.finfo(values.dtype).eps)
        parts = values.split(max(1, _COMPARED // values.shape[1]))
        for digits, dtype in zip(self.digits, NARROW, strict=True):
            if torch.finfo(dtype).eps <= torch.finfo(values.dtype).eps or digits[1].isinf():
                continue
            if all(torch.equal(part.to(dtype).to(part.dtype), part) for part in parts):
                digits += 0 if digits[1] > _ENOUGH else _last_digits(parts[0].to(dtype))
            else:
                digits[1] = torch.inf

    def at_least(self, precision: float) -> None:
        """Takes ε of a type that the features were computed in."""
        self.coarsest = max(self.coarsest, precision)

    def merge(self, other: "Stored") -> Self:
        """Folds in what was found of other features."""
        self.at_least(other.coarsest)
        self.digits = self.digits + other.digits
        return self

    @property
    def precision(self) -> float:
        """ε."""
        found = self.digits[:, 0] > _ROUNDED * self.digits[:, 1]
        return max([self.coarsest, *(torch.finfo(dtype).eps for dtype, yes in zip(NARROW, found, strict=True) if yes)])


def _last_digits(values: Tensor) -> Tensor:
    """Counts the values below the largest power of two that have a last digit of their type, and all of them."""
    bits = values.contiguous().view(NARROW[values.dtype])
    exponents = values.double().frexp().exponent
    below = (values != 0) & (exponents < exponents.max())
    return torch.stack([((bits & _LAST[values.dtype]) != 0)[below].sum(), below.sum()]).double().cpu()


def name_of(precision: float) -> str:
    """Returns the name of the type with this ε, such as `float32`; of a type of no features, ε itself."""
    names = {torch.finfo(dtype).eps: str(dtype).removeprefix("torch.") for dtype in (torch.float64, *NARROW)}
    return names.get(precision, f"ε = {precision:.1e}")
