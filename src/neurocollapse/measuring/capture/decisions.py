"""Compares how W h + b decides, from the rows that were taken, with how the model itself decides."""

import math
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from ..._errors import CaptureWarning
from ...networks import CONVOLUTIONS, Call, Head, numbers_of, tensors_of
from .samples import Picked, Rows

#: What a model may make of the outputs of the token that it picks.
SHOWN_AS: tuple[Callable[[Tensor], Tensor], ...] = (lambda f: f, lambda f: f.softmax(-1), lambda f: f.log_softmax(-1))

#: Two outputs of a row are tied if they differ by this many roundings of the largest.
ROUNDINGS = 4
#: The precision of products in float32 that a GPU may round to fewer digits.
TF32 = 2.0**-10


@dataclass
class Tally:
    """Counts of samples: those compared, those decided otherwise than by the model, and those decided rightly.

    Samples whose outputs the model returns as they are agree, and are not counted.
    """

    head: str = ""
    compared: int = 0
    otherwise: int = 0
    right: int = 0
    model_right: int = 0
    #: samples of which the token that the model picks was taken in place of the one asked for
    replaced: int = 0
    #: the shapes that the model returned, if its decisions cannot be read from them
    unreadable: str = ""

    def merge(self, other: "Tally") -> Self:
        """Adds the counts of other samples."""
        self.head, self.unreadable = self.head or other.head, self.unreadable or other.unreadable
        self.compared += other.compared
        self.otherwise += other.otherwise
        self.right += other.right
        self.model_right += other.model_right
        self.replaced += other.replaced
        return self

    def warn(self, *, stacklevel: int) -> None:
        """Warns, with `CaptureWarning`, if the model decides otherwise or it is not known how it decides."""
        found = self._fault()
        if found:
            warnings.warn(found, CaptureWarning, stacklevel=stacklevel + 1)

    def _fault(self) -> str:
        if self.unreadable:
            return (
                f"the model returns {self.unreadable}, which does not show how it decides, so nobody knows whether the "
                f"head {self.head!r} decides alike; let it return the outputs that it decides by"
            )
        if not (self.otherwise or self.replaced):
            return ""
        compared = (
            f"W h + b decides otherwise for {self.otherwise} of {self.compared} samples: accuracy "
            f"{self.right / self.compared:.4g}, and the model's own is {self.model_right / self.compared:.4g}"
        )
        if self.replaced:
            return (
                f"the model returns the output of another token than tokens= or spatial= takes; there {compared}; the "
                f"model's own token was measured instead, for {self.replaced} samples"
            )
        return (
            f"the output of the head {self.head!r} is not the model's: {compared}; accuracy, margins and NC4 are the "
            f"head's own, so pass the head=, tokens= or spatial= by which the model decides; the mean of two "
            f"heads has none"
        )


def count(tally: Tally, head: Head, call: Call, output: object, labels: Tensor, rows: Rows, *, is_linear: bool) -> None:
    """Counts, for the rows as they were asked for, how W h + b decides and how the model does.

    Of several outputs of the model the one counts that agrees best. Ties by rounding agree with either class. The
    outputs of a head that `is_linear` are W h + b.
    """
    tally.head = head.name
    theirs = _decisive(output, len(head.weight), labels)
    if not theirs:
        shapes = ", ".join(str(tuple(result.shape)) for result in tensors_of(output))
        tally.unreadable = shapes or f"{type(output).__name__} without numbers"
        return
    with without_autocast(labels.device):
        ours, index = _outputs(head, call if is_linear else None, labels, rows)
    if any(_is_view(ours, result) for result in theirs):
        return
    mine = ours.argmax(dim=-1)[index]
    differing = []
    for result in theirs:
        decided = (result if result.ndim == 1 else result.argmax(dim=-1))[rows.source]
        differs = mine != decided
        if differs.any():
            where = differs.nonzero().flatten()
            tied = _tied(ours[index[where]], decided[where], rows.features.dtype)
            if result.ndim > 1:
                tied |= _tied(result[rows.source[where]], mine[where], rows.features.dtype, clamped=True)
            differs[where] = ~tied
        differing.append((int(differs.sum()), decided, differs))
    number, decided, differs = min(differing, key=lambda each: each[0])
    right = mine == rows.labels
    tally.compared += len(mine)
    tally.otherwise += number
    tally.right += int(right.sum())
    tally.model_right += int(torch.where(differs, decided == rows.labels, right).sum())


def picked_by_the_model(head: Head, call: Call, output: object, labels: Tensor, asked: Rows) -> Picked | None:
    """Returns the positions whose outputs the model returns, if it does not return those of the rows asked for.

    A sequence classifier may return the outputs of one token: where the outputs of just some tokens equal what it
    returned, these are the ones that it decides by.
    """
    if call.output is None or call.output.ndim < 3 or labels.numel() != len(call.output):
        return None
    if len(asked.source) != len(asked.source.unique()):  # every token is a sample
        return None
    equal = _positions_shown(_features_last(head, call.output), output)
    if equal is None:
        return None
    tokens = _features_last(head, call.input).flatten(1, -2)[asked.source]
    is_asked = (tokens == asked.features[:, None]).all(dim=-1) & equal[asked.source]
    if is_asked.any(dim=1).all():
        return None
    position = equal.int().argmax(dim=1)
    # among equal tokens the one asked for, if it is among them
    position[asked.source] = torch.where(is_asked.any(dim=1), is_asked.int().argmax(dim=1), position[asked.source])
    return Picked(position, equal.shape[1])


def _positions_shown(outputs: Tensor, output: object) -> Tensor | None:
    """Returns a mask (samples, positions) of outputs that the model returns; None unless there are for every sample."""
    for result in numbers_of(output):
        if result.numel() != len(outputs) * outputs.shape[-1] or len(result) != len(outputs):
            continue
        for shown in SHOWN_AS:
            for some in (slice(1), slice(None)):  # the first sample alone, as a rule, shows that they differ
                given = outputs[some].flatten(1, -2).to(result.dtype)
                equal = (shown(given) == result[some].reshape(-1, 1, outputs.shape[-1])).all(dim=-1)
                if not equal.any(dim=1).all():
                    break
            else:
                return equal
    return None


def _decisive(output: object, classes: int, labels: Tensor) -> list[Tensor]:
    """Returns the parts of a model's output that show how it decides: (labels, classes), or the classes, (labels,)."""
    wanted = ([size for size in labels.shape if size > 1], [labels.numel()] if labels.numel() > 1 else [])
    found = []
    for result in numbers_of(output):
        for axis in (-1, 1):
            if result.ndim > max(axis, 0) and result.shape[axis] == classes:
                by_class = result.movedim(axis, -1)
                if [size for size in by_class.shape[:-1] if size > 1] in wanted:
                    found.append(by_class.reshape(-1, classes))
                    break
    if found:
        return found
    integers = [t for t in tensors_of(output) if not t.is_floating_point() and not t.is_complex()]
    return [t.flatten().long() for t in integers if [size for size in t.shape if size > 1] in wanted]


def _outputs(head: Head, call: Call | None, labels: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    """Returns outputs W h + b, and for each row the index of its own among them.

    They are those of the call where it gave some for each label, which costs no product.
    """
    if call is not None and call.output is not None and not call.output_has_changed:
        by_class = _features_last(head, call.output)
        if math.prod(by_class.shape[:-1]) == labels.numel():
            return by_class.reshape(-1, by_class.shape[-1]), rows.source
    wide = torch.promote_types(rows.features.dtype, torch.float32)
    bias = None if head.bias is None else head.bias.to(wide)
    outputs = torch.nn.functional.linear(rows.features.to(wide), head.weight.to(wide), bias)
    return outputs, torch.arange(len(outputs), device=outputs.device)


def _features_last(head: Head, value: Tensor) -> Tensor:
    return value.movedim(1, -1) if isinstance(head.module, CONVOLUTIONS) else value


def _is_view(ours: Tensor, result: Tensor) -> bool:
    return ours.data_ptr() == result.data_ptr() and ours.shape == result.shape and ours.stride() == result.stride()


def _tied(outputs: Tensor, chosen: Tensor, dtype: torch.dtype, *, clamped: bool = False) -> Tensor:
    """Whether the outputs of a class are the largest, to rounding; if `clamped`, zeros of a ReLU are no ties.

    Rounding is that of the largest output, but for what masks a class: an infinity, or the lowest number of the type.
    """
    epsilon = max(torch.finfo(outputs.dtype).eps, torch.finfo(dtype).eps)
    if outputs.is_cuda and torch.get_float32_matmul_precision() != "highest":
        epsilon = max(epsilon, TF32)
    largest, given = outputs.amax(dim=-1), outputs.gather(-1, chosen[:, None]).squeeze(-1)
    sizes = outputs.abs().where(outputs.abs() < torch.finfo(outputs.dtype).max / 2, 0.0).amax(dim=-1)
    tied = (given == largest) | (largest - given <= ROUNDINGS * epsilon * sizes)
    return tied & (largest != 0) if clamped else tied


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Makes operations within the block compute in the types of their inputs."""
    available = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else nullcontext()
