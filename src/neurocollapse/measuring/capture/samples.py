"""Turns a layer's input or output, with labels of any layout, into rows of features with one label each."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..._errors import InputError

#: Modules that give maps (samples, channels, *positions). A three-dimensional tensor from any other module is a
#: sequence of tokens (samples, tokens, features); a tensor of four or more dimensions is a map.
CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
)
#: Modules that work on the last dimension, however many come before it.
CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.Embedding)


class Rows(NamedTuple):
    """The rows of a batch: features (rows, features), labels (rows,), and which of the batch's labels each has."""

    features: Tensor
    labels: Tensor
    source: Tensor


class Picked(NamedTuple):
    """The position (samples,) by which the model decides about each sample, and the number of positions."""

    position: Tensor
    number: int


@dataclass(frozen=True)
class Positions:
    """Turns positions of maps and tokens of sequences into samples: see `capture`.

    What is `picked` counts, where there are as many positions, and not `spatial` and `tokens`.
    """

    spatial: str = "flatten"
    tokens: str | int | None = None
    ignore_index: int = -100
    picked: Picked | None = None

    def __post_init__(self) -> None:
        if self.spatial not in ("flatten", "mean"):
            raise InputError(f"spatial must be 'flatten' or 'mean', got {self.spatial!r}")
        if not (self.tokens in (None, "first", "last", "mean", "all") or type(self.tokens) is int):
            raise InputError(f"tokens must be 'first', 'last', 'mean', 'all' or a position, got {self.tokens!r}")

    def check(self, labels: Tensor) -> None:
        """Raises `InputError` for a choice among positions where each has a label, so that the choice has no effect."""
        for name, value in (("tokens", self.tokens), ("spatial", None if self.spatial == "flatten" else self.spatial)):
            if value is not None and labels.numel() > len(labels):
                raise InputError(
                    f"{name}={value!r} is for one label per sample, and with labels of shape {tuple(labels.shape)} "
                    f"every position is a sample of its own; leave {name}= out, or pass one label per sample"
                )

    def __call__(self, place: "Place", value: Tensor, labels: Tensor, mask: Tensor | None) -> Rows:
        """Returns the rows that have a label which is not to be ignored."""
        if not value.is_floating_point():
            raise InputError(f"{place} is {value.dtype}, which cannot be features; name another layer")
        labels = labels.to(value.device)
        numbers = torch.arange(labels.numel(), device=value.device).view(labels.shape)
        features, source = self._rows(place, value, numbers, mask)
        rows = Rows(features, labels.flatten()[source], source)
        keep = rows.labels != self.ignore_index
        return rows if keep.all() else Rows(*(part[keep] for part in rows))

    def _rows(self, place: "Place", value: Tensor, labels: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        if value.ndim < 2:
            raise InputError(f"{place} has shape {tuple(value.shape)}; it must have samples and features")
        by_position = value.movedim(1, -1) if place.channels_first(value) else value
        positions = by_position.shape[:-1]
        if labels.shape == positions or (len(positions) == 1 and labels.numel() == len(value)):
            return by_position.flatten(0, -2), labels.flatten()
        if labels.numel() != len(value) or len(labels) != len(value):
            raise InputError(
                f"labels have shape {tuple(labels.shape)}, which fits neither the samples nor the positions of "
                f"{place}, of shape {tuple(value.shape)}; pass one integer per sample, or one per position"
            )
        labels = labels.flatten()
        if positions.numel() == len(value):
            return value.flatten(1), labels
        if self.picked is not None and positions.numel() == len(value) * self.picked.number:
            return by_position.flatten(1, -2)[
                torch.arange(len(value), device=value.device), self.picked.position
            ], labels
        if value.ndim == 3 and not place.channels_first(value):
            return self._tokens(place, value, labels, mask)
        if self.spatial == "mean":
            return by_position.flatten(1, -2).mean(dim=1), labels
        if place.is_head:
            raise InputError(
                f"{place} has shape {tuple(value.shape)}, with more than one position; pass spatial='mean', which is "
                f"exact where the model averages right after the head, or head= another layer"
            )
        return value.flatten(1), labels

    def _tokens(self, place: "Place", value: Tensor, labels: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        n, T = value.shape[:2]
        if self.tokens is None and place.is_head:
            raise InputError(
                f"{place} has shape {tuple(value.shape)}, but there is one label per sample; say which of the {T} "
                f"tokens the model decides by: tokens='first', 'last', 'mean', 'all' or a position"
            )
        if isinstance(self.tokens, int):
            if not -T <= self.tokens < T:
                raise InputError(f"token {self.tokens} is out of range: {place} has {T} tokens")
            return value[:, self.tokens], labels
        real = torch.ones(n, T, dtype=torch.bool) if mask is None or mask.shape != (n, T) else mask != 0
        real = real.to(value.device)
        if self.tokens == "all":
            return value[real], labels[:, None].expand(n, T)[real]
        if self.tokens in (None, "mean"):
            if real.all():
                return value.mean(dim=1), labels
            mean = (value * real[..., None]).sum(dim=1) / real.sum(dim=1, keepdim=True)
            return mean.to(value.dtype), labels  # sums may be float32 under autocast
        position = real.int().argmax(dim=1) if self.tokens == "first" else T - 1 - real.flip(1).int().argmax(dim=1)
        return value[torch.arange(n, device=value.device), position], labels


@dataclass(frozen=True)
class Place:
    """A place in a model from which features are taken: the input of the head, or the output of a layer."""

    name: str
    module: nn.Module
    is_head: bool = False

    def channels_first(self, value: Tensor) -> bool:
        """Whether the value is a map (samples, channels, *positions)."""
        if isinstance(self.module, CHANNELS_FIRST):
            return True
        if self.is_head or isinstance(self.module, CHANNELS_LAST):
            return False
        return value.ndim > 3

    def __str__(self) -> str:
        return f"the input of the head {self.name!r}" if self.is_head else f"the output of layer {self.name!r}"
