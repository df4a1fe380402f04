"""Turns whatever a data loader yields into the arguments of the model and the labels."""

import inspect
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..._errors import InputError, InputTypeError
from ...datasets import Dataset, Split
from ...networks import unwrap
from ...statistics import int64_labels

#: The keys under which a mapping may have its labels; the first one present counts.
LABEL_KEYS = ("labels", "label", "targets", "target", "y")
#: The keys for a model's only argument, used if its name is not a key and there are other tensors too.
INPUT_KEYS = ("pixel_values", "images", "image", "inputs", "input", "x")

#: The types that a model computes in; others, such as the eight bits of quantised weights, are for storing.
_PRECISIONS = {torch.float64, torch.float32, torch.float16, torch.bfloat16}


#: The number of samples of a `Split` in a batch.
_BATCH = 500


@dataclass(frozen=True)
class Batch:
    """The arguments with which the model is called, and the int64 labels, (samples,) or one per position."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    labels: Tensor


def as_loader(loader: Any) -> Iterable[Any]:
    """Returns what yields batches: the argument itself, or a loader of a `Split`. Raises `InputTypeError`."""
    if isinstance(loader, Split):
        return DataLoader(loader, batch_size=_BATCH)  # type: ignore[arg-type]  # no need to be of torch's class
    if not (isinstance(loader, Iterable) or hasattr(loader, "__getitem__")):
        remedy = "a split of it, such as dataset.train" if isinstance(loader, Dataset) else "a DataLoader, or a list"
        raise InputTypeError(
            f"a loader yields batches of (inputs, labels), and {type(loader).__name__} yields none; pass {remedy}"
        )
    return loader


def batches(loader: Iterable[Any], model: nn.Module, *, label_key: str | int | None = None) -> Iterator[Batch]:
    """Yields the items of `loader` as arguments of `model` and labels.

    A tuple or list is (inputs, labels, ...). A mapping has its labels under `labels`, `label`, `targets`, `target` or
    `y`; its other values go to the arguments of `model.forward` with the same names, and the rest is left out. If no
    name agrees, a single tensor (or the one called `image`, `pixel_values`, ...) is the only argument. `label_key` says
    where the labels are if they are elsewhere: a key, or the position in a tuple.

    Raises:
        ValueError: the loader yields nothing, no labels, or labels that are not integers; or it is not clear what to
            call the model with.
    """
    empty = True
    accepted = _Accepted(unwrap(model))
    for item in as_loader(loader):
        inputs, labels = _split(item, label_key)
        _check_tensors(inputs)
        args, kwargs = accepted.arguments(inputs)
        labels = _integers(labels)
        if accepted.decoded and labels.ndim == 2 and kwargs and not _DECODED & kwargs.keys():
            kwargs["decoder_input_ids"] = accepted.decoded(labels)
        batch = Batch(args, kwargs, labels)
        if batch.labels.numel():
            empty = False
            yield batch
    if empty:
        raise InputError("the loader yields nothing; give it data (an iterator that was read before is empty)")


#: What the decoder of a model of transformers reads.
_DECODED = {"decoder_input_ids", "decoder_inputs_embeds"}


class Unlabelled:
    """The inputs of a loader, each with label 0 in place of its own label, if it has any."""

    def __init__(self, loader: Iterable[Any], label_key: str | int | None):
        self.loader, self.label_keys = loader, {*LABEL_KEYS, label_key}

    def __iter__(self) -> Iterator[Any]:
        for item in self.loader:
            if isinstance(item, Mapping):
                size = len(next(iter(item.values())))
                yield {**{k: v for k, v in item.items() if k not in self.label_keys}, LABEL_KEYS[0]: _zeros(size)}
            else:
                inputs = item if isinstance(item, Tensor) else item[0]
                yield inputs, _zeros(len(inputs))


def _zeros(size: int) -> Tensor:
    return torch.zeros(size, dtype=torch.int64)


def _check_tensors(inputs: Any) -> None:
    """Raises `ValueError` for an array of NumPy, which no module takes."""
    parts = inputs.values() if isinstance(inputs, Mapping) else inputs if isinstance(inputs, list | tuple) else [inputs]
    for part in parts:
        if isinstance(part, np.ndarray):
            raise InputError(
                f"the loader yields inputs as an array of NumPy, {part.dtype} of shape {part.shape}, and models take "
                f"tensors; let it yield torch.from_numpy(inputs).float()"
            )


def _split(item: Any, label_key: str | int | None) -> tuple[Any, Any]:
    if isinstance(item, Mapping):
        keys = LABEL_KEYS if label_key is None else (label_key,)
        key = next((key for key in keys if key in item), None)
        if key is None:
            raise InputError(
                f"the loader yields no labels: its batches have {', '.join(map(repr, item))}, but not "
                f"{' or '.join(map(repr, keys))}; say where they are with label_key="
            )
        return {name: value for name, value in item.items() if name != key}, item[key]
    if isinstance(item, Sequence) and not isinstance(item, str) and len(item) > 1:
        position = 1 if label_key is None else label_key
        if not isinstance(position, int) or not -len(item) <= position < len(item) or position % len(item) == 0:
            raise InputError(
                f"label_key is {label_key!r}, but the loader yields {len(item)} things in a {type(item).__name__}, "
                f"the inputs first; pass the position of the labels, from 1 to {len(item) - 1}"
            )
        return item[0], item[position]
    size = f" of shape {tuple(item.shape)}" if isinstance(item, Tensor) else ""
    raise InputError(
        f"the loader yields no labels: its batches are {type(item).__name__}{size}; "
        f"let it yield (inputs, labels), or a mapping with labels"
    )


class _Accepted:
    """The arguments that a model's forward takes."""

    def __init__(self, model: nn.Module):
        while "_fsdp_wrapped_module" in model._modules:
            model = model.get_submodule("_fsdp_wrapped_module")
        parameters = inspect.signature(model.forward).parameters.values()
        self.any_name = any(p.kind is p.VAR_KEYWORD for p in parameters)
        self.names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        by_position = sum(p.kind in (p.POSITIONAL_OR_KEYWORD, p.POSITIONAL_ONLY) for p in parameters)
        self.most = math.inf if any(p.kind is p.VAR_POSITIONAL for p in parameters) else by_position
        #: what the decoder reads where a batch of a model of transformers has the labels alone, as in training
        self.decoded = getattr(model, "prepare_decoder_input_ids_from_labels", None)

    def arguments(self, inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if isinstance(inputs, list | tuple):
            return (tuple(inputs), {}) if self.most > 1 else ((inputs,), {})
        if not isinstance(inputs, Mapping):
            return (inputs,), {}
        named = {name: value for name, value in inputs.items() if name in self.names}
        tensors = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
        if not named and self.most >= 1:
            single = tensors if len(tensors) == 1 else {name: tensors[name] for name in INPUT_KEYS if name in tensors}
            if len(single) == 1:
                return tuple(single.values()), {}
        if self.any_name:
            return (), {**tensors, **named}
        if not named:
            raise InputError(
                f"the loader yields {', '.join(map(repr, inputs)) or 'nothing'} beside the labels, and the model's "
                f"forward takes {', '.join(map(repr, self.names))}; let the names agree, or yield (inputs, labels)"
            )
        return (), named


#: What labels of so many axes may be.
_HINTS = {
    0: "; if the loader yields single samples, let torch.utils.data.DataLoader make batches of them",
    2: "; one-hot or mixed labels must become integers, such as labels.argmax(1)",
}


def _integers(values: Any) -> Tensor:
    try:
        labels = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"labels are {type(values).__name__} that are no numbers ({error}); pass integers") from error
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool or not labels.ndim:
        hint = _HINTS.get(labels.ndim, "")
        raise InputError(
            f"labels must be integers, one per sample, got {labels.dtype} of shape {tuple(labels.shape)}{hint}"
        )
    return int64_labels(labels)


def precision_of(model: nn.Module) -> torch.dtype | None:
    """Returns the floating-point type of the model's parameters; None if they have several, or none."""
    found = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    return found.pop() if len(found) == 1 and found <= _PRECISIONS else None


def to_device(batch: Batch, device: torch.device, precision: torch.dtype | None = None) -> Batch:
    """Moves the batch's tensors, also those within tuples, lists and mappings, to `device`.

    Inputs of floating-point numbers take the given precision.
    """
    args, kwargs = _moved(batch.args, device, precision), _moved(batch.kwargs, device, precision)
    return Batch(args, kwargs, batch.labels.to(device))


def _moved(value: Any, device: torch.device, precision: torch.dtype | None) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, precision if value.is_floating_point() else None, non_blocking=True)
    if isinstance(value, Mapping):
        return {name: _moved(part, device, precision) for name, part in value.items()}
    if isinstance(value, list | tuple):
        parts = [_moved(part, device, precision) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value
