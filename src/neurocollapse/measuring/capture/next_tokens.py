"""Moves labels by one position where a language model's labels are its own input, as the model does in training."""

import warnings
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from torch import Tensor, nn

from ..._errors import CaptureWarning
from .loaders import Batch

#: What comes with a batch.
T = TypeVar("T")


class NextTokens:
    """Makes the labels of batches those of the next token, if they are of the present one.

    They are if they equal the tokens that the model reads, but not for a model that reads in both directions, or if
    the model generates text, as those of transformers say of themselves. Labels that are those of the next token
    already stay as they are. The first batch that tells the one from the other decides for all: where a token is
    followed by the same one throughout, both are true.
    """

    def __init__(self, model: nn.Module, ignore_index: int):
        self.model, self.ignore_index = model, ignore_index
        self._warned = False

    def of(self, batches: Iterable[tuple[Batch, T]]) -> Iterator[tuple[Batch, Tensor, T]]:
        """Yields each batch with the labels that count, and what came with it, once a batch has decided."""
        shifts: bool | None = None
        waiting: list[tuple[Batch, T]] = []
        for batch, beside in batches:
            waiting.append((batch, beside))
            if shifts is None:
                shifts = self._shifts(batch)
            if shifts is not None:
                yield from self._counted(waiting, shifts)
                waiting.clear()
        yield from self._counted(waiting, all(self._is_present(batch) for batch, _ in waiting))

    def _counted(self, batches: list[tuple[Batch, T]], shifts: bool) -> Iterator[tuple[Batch, Tensor, T]]:
        for batch, beside in batches:
            labels = batch.labels
            if shifts and labels.ndim == 2:
                if not self._warned and (labels != self.ignore_index).any():
                    self._warn()
                labels = labels.roll(-1, dims=1)
                labels[:, -1] = self.ignore_index
            yield batch, labels, beside

    def _shifts(self, batch: Batch) -> bool | None:
        """Whether the labels of a batch are those of the tokens read; None if it does not tell."""
        generates, labels, read = _generates(self.model), batch.labels, _tokens(batch)
        if labels.ndim != 2 or read is None or generates is False:
            return False
        is_present = self._is_present(batch)
        if not is_present and not generates:
            return False
        counts = labels[:, :-1] != self.ignore_index
        is_next = bool((labels[:, :-1] == read[:, 1:])[counts].all())
        if is_next and (is_present or not counts.any()):
            return None
        return not is_next

    def _is_present(self, batch: Batch) -> bool:
        labels, read = batch.labels, _tokens(batch)
        return read is not None and bool((labels == read)[labels != self.ignore_index].all())

    def _warn(self) -> None:
        self._warned = True
        warnings.warn(
            f"the labels are those of the tokens that {type(self.model).__name__} reads, and it predicts the next, so "
            f"each position was measured under the label of the one after it; labels that are the next tokens already, "
            f"labels[:, t] = input_ids[:, t + 1], are used as they are",
            CaptureWarning,
            stacklevel=2,
        )


def _tokens(batch: Batch) -> Tensor | None:
    """Returns the tokens that the model reads, if there is one for each label."""
    values: tuple[Any, ...] = (batch.kwargs.get("input_ids"), *batch.args, *batch.kwargs.values())
    tensors = (value for value in values if isinstance(value, Tensor))
    first = next(tensors, None)
    if first is None or first.is_floating_point() or first.shape != batch.labels.shape:
        return None
    return first


def _generates(model: nn.Module) -> bool | None:
    """Whether a model of transformers generates text from left to right; None for any other model."""
    asked, config = getattr(model, "can_generate", None), getattr(model, "config", None)
    return None if asked is None or config is None else asked() and not getattr(config, "is_encoder_decoder", False)
