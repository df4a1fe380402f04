"""Moves labels by one position where a language model's labels are its own input, as the model does in training."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..._errors import CaptureWarning
from ...networks import tensors_of
from .loaders import Batch

#: What comes with a batch.
T = TypeVar("T")


class NextTokens:
    """Makes the labels of batches those of the next token, if they are of the present one.

    A model of transformers shows by its own loss whether it moves them in training. Of other models they are those of
    the present token if they equal the tokens that the model reads. Labels that are those of the next token already
    stay as they are. The first batch that tells the one from the other decides for all: where a token is followed by
    the same one throughout, both are true.
    """

    def __init__(self, model: nn.Module, ignore_index: int):
        self.model, self.ignore_index = model, ignore_index
        self._warned = self._tried = False
        self._trained_shifted: bool | None = None

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
        """Whether the labels of a batch are to be moved; None if it does not tell."""
        labels = batch.labels
        if labels.ndim != 2:
            return False
        if not self._tried:
            self._tried, self._trained_shifted = True, _shifts_in_training(self.model, batch, self.ignore_index)
        is_present = self._is_present(batch)
        if self._trained_shifted is False or not (is_present or self._trained_shifted):
            return False
        counts = labels[:, :-1] != self.ignore_index
        read = _are_read(self.model, batch, labels.roll(1, dims=1))
        is_next = read is not None and bool(read[:, 1:][counts].all())
        if is_next and (is_present or not counts.any()):
            return None
        return not is_next

    def _is_present(self, batch: Batch) -> bool:
        read = _are_read(self.model, batch, batch.labels)
        return read is not None and bool(read[batch.labels != self.ignore_index].all())

    def _warn(self) -> None:
        self._warned = True
        warnings.warn(
            f"the labels are those of the tokens that {type(self.model).__name__} reads, and it predicts the next, so "
            f"each position was measured under the label of the one after it; labels that are the next tokens already, "
            f"labels[:, t] = input_ids[:, t + 1], are used as they are",
            CaptureWarning,
            stacklevel=2,
        )


def _are_read(model: nn.Module, batch: Batch, tokens: Tensor) -> Tensor | None:
    """Whether these are the tokens that the model reads, or their embeddings; None if it does not read as many."""
    named = ("input_ids", "inputs_embeds")
    values: tuple[Any, ...] = (*map(batch.kwargs.get, named), *batch.args, *batch.kwargs.values())
    first = next((value for value in values if isinstance(value, Tensor)), None)
    if first is None or first.shape[:2] != tokens.shape:
        return None
    if first is batch.kwargs.get("inputs_embeds"):
        embedding = getattr(model, "get_input_embeddings", lambda: None)()
        if not isinstance(embedding, nn.Embedding):
            return None
        known = tokens.clamp(0, embedding.num_embeddings - 1)  # what is out of range is an error later
        return (embedding(known) == first).all(dim=-1)
    return None if first.is_floating_point() or first.ndim > 2 else first == tokens


def _shifts_in_training(model: nn.Module, batch: Batch, ignore_index: int) -> bool | None:
    """Whether a model of transformers reads the label of a token at the one before; None for any other model.

    Its own loss tells, of one sample with a label at its second token alone: it is the cross-entropy of the output
    there, or at the first token. Where it is neither, the model says whether it generates text from left to right.
    """
    asked, config = getattr(model, "can_generate", None), getattr(model, "config", None)
    if asked is None or config is None:
        return None
    number, labels = len(batch.labels), torch.full_like(batch.labels[:1], ignore_index)

    def first_sample(value: Any) -> Any:
        return value[:1] if isinstance(value, Tensor) and value.ndim and len(value) == number else value

    with suppress(Exception):  # of the model's own code, which may take no such labels or return no loss
        labels[0, 1] = batch.labels[0, 1].clamp(min=0)
        kwargs = {name: first_sample(value) for name, value in batch.kwargs.items()}
        output = model(*map(first_sample, batch.args), **kwargs, labels=labels)
        logits, target = _logits(output)[0, :2].float(), labels[0, 1].expand(2)
        loss = _loss(output).float()
        at_first, at_second = (nn.functional.cross_entropy(logits, target, reduction="none") - loss).abs()
        if min(at_first, at_second) < min(1e-2 * loss, max(at_first, at_second) / 10):
            return bool(at_first < at_second)
    return bool(asked()) and not getattr(config, "is_encoder_decoder", False)


def _logits(output: object) -> Tensor:
    return next(value for value in tensors_of(output) if value.ndim == 3)


def _loss(output: object) -> Tensor:
    """Returns the loss in the output of a model, which may be a part with that name, or the only number in a tuple."""
    named = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    return next(value for value in (named, *tensors_of(output)) if isinstance(value, Tensor) and value.ndim == 0)
