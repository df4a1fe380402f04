"""Moves labels by one position where a language model's labels are its own input, as the model does in training."""

import warnings
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ..._errors import CaptureWarning
from .loaders import Batch


class NextTokens:
    """Makes the labels of a batch those of the next token, if the first batch shows that they are of the present one.

    They are if they equal the tokens that the model reads, but not for a model that reads in both directions, or if
    the model generates text, as those of transformers say of themselves. Labels that are those of the next token
    already stay as they are.
    """

    def __init__(self, model: nn.Module, ignore_index: int):
        self.model, self.ignore_index = model, ignore_index
        self.shifts: bool | None = None  # until a batch has labels that count

    def __call__(self, batch: Batch) -> Batch:
        if batch.labels.ndim != 2 or batch.labels.shape[1] < 2:
            return batch
        if self.shifts is None and (batch.labels != self.ignore_index).any():
            self.shifts = self._shifts(batch)
        if not self.shifts:
            return batch
        labels = batch.labels.roll(-1, dims=1)
        labels[:, -1] = self.ignore_index
        return replace(batch, labels=labels)

    def _shifts(self, batch: Batch) -> bool:
        labels, read = batch.labels, _tokens(batch)
        counts = labels != self.ignore_index
        if read is None or _agree(labels[:, :-1], read[:, 1:], counts[:, :-1]):
            return False
        generates = _generates(self.model)
        if not (_agree(labels, read, counts) if generates is None else generates):
            return False
        warnings.warn(
            f"the labels are those of the tokens that {type(self.model).__name__} reads, and it predicts the next, so "
            f"each position was measured under the label of the one after it; labels that are the next tokens already, "
            f"labels[:, t] = input_ids[:, t + 1], are used as they are",
            CaptureWarning,
            stacklevel=2,
        )
        return True


def _tokens(batch: Batch) -> Tensor | None:
    """Returns the tokens that the model reads, if there is one for each label."""
    values: tuple[Any, ...] = (batch.kwargs.get("input_ids"), *batch.args, *batch.kwargs.values())
    tensors = (value for value in values if isinstance(value, Tensor))
    first = next(tensors, None)
    if first is None or first.is_floating_point() or first.shape != batch.labels.shape:
        return None
    return first


def _agree(labels: Tensor, tokens: Tensor, counts: Tensor) -> bool:
    return bool(counts.any()) and bool((labels == tokens)[counts].all())


def _generates(model: nn.Module) -> bool | None:
    """Whether a model of transformers generates text from left to right; None for any other model."""
    asked, config = getattr(model, "can_generate", None), getattr(model, "config", None)
    return None if asked is None or config is None else asked() and not getattr(config, "is_encoder_decoder", False)
