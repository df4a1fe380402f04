"""Records the calls of possible heads in a forward pass, and finds those that gave the model's output."""

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .._errors import InputError

#: The head is sought among this many calls, the last ones of the first forward pass: keeping the inputs of all calls
#: would need as much memory as training does.
CALLS_KEPT = 16


@dataclass
class Call:
    """One call of a possible head during a forward pass."""

    name: str
    input: Tensor
    version: int  # the version of the input's numbers when the candidate was called
    output: Tensor | None = None
    output_version: int = 0

    @property
    def input_has_changed(self) -> bool:
        """Whether the model has changed the input in place since."""
        return _version(self.input) != self.version

    @property
    def output_has_changed(self) -> bool:
        """Whether the model has changed the output in place since, or may have, since nothing counts its versions."""
        return self.output is None or self.output.is_inference() or self.output._version != self.output_version


class Calls:
    """The last calls of possible heads in a forward pass: a context that has hooks on them while it is open."""

    def __init__(self, candidates: Mapping[str, nn.Module], *, copied: bool = False, kept: int | None = CALLS_KEPT):
        self.candidates, self.copied = candidates, copied
        self.last: deque[Call] = deque(maxlen=kept)
        self.counts: Counter[str] = Counter()
        self.handles: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        for name, module in self.candidates.items():
            self.handles.append(module.register_forward_pre_hook(self._before(name), with_kwargs=True))
            self.handles.append(module.register_forward_hook(self._after(name)))
        return self

    def __exit__(self, *_: object) -> None:
        while self.handles:
            self.handles.pop().remove()

    def clear(self) -> None:
        """Forgets the calls so far."""
        self.last.clear()
        self.counts.clear()

    def of(self, name: str) -> Call:
        """Returns the last call of a candidate."""
        return next(call for call in reversed(self.last) if call.name == name)

    def _before(self, name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            value = first_tensor(f"the input of the head {name!r}", [*args, *kwargs.values()])
            value = value.clone() if self.copied else value
            self.last.append(Call(name, value, _version(value)))
            self.counts[name] += 1

        return hook

    def _after(self, name: str) -> Any:
        def hook(_: nn.Module, __: object, output: object) -> None:
            if isinstance(output, Tensor) and self.last and self.last[-1].name == name:
                self.last[-1].output, self.last[-1].output_version = output, _version(output)

        return hook


def _version(value: Tensor) -> int:
    return -1 if value.is_inference() else value._version


def tensors_of(output: object) -> list[Tensor]:
    """Returns the tensors in a module's output: only `.logits` or ["logits"] if there is one, else all, in order."""
    if isinstance(output, Tensor):
        return [output]
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return [logits]
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, list | tuple):
        return [tensor for part in output for tensor in tensors_of(part)]
    return []


def first_tensor(place: object, values: Any) -> Tensor:
    """Returns the first tensor in the values. Raises `ValueError`, which names the place, if there is none."""
    tensors = tensors_of(values)
    if not tensors:
        raise InputError(f"{place} is {type(values).__name__} without a tensor; name another layer")
    return tensors[0]


def calls_that_gave(calls: Iterable[Call], output: object) -> list[Call]:
    """Returns the calls that gave the model's output; if none did, those with its order in every row."""
    results, made = numbers_of(output), [(call, call.output) for call in calls if call.output is not None]
    for test in (_is_same, _is_increasing):
        if found := [call for call, given in made if any(test(given, result) for result in results)]:
            return found
    return []


def averaged_calls(calls: Iterable[Call], output: object) -> list[Call]:
    """Returns two calls of which the mean, and neither, is the model's output, as with two heads; none otherwise."""
    made = [(call, call.output) for call in calls if call.output is not None]
    for result in numbers_of(output):
        fitting = [(call, given) for call, given in made if given.shape == result.shape]
        if any(_is_same(given, result) for _, given in fitting):
            continue
        for (first, one), (second, other) in combinations(fitting, 2):
            if torch.allclose((one + other).to(result) / 2, result):
                return [first, second]
    return []


def numbers_of(output: object) -> list[Tensor]:
    """Returns the floating-point tensors in a module's output."""
    return [tensor for tensor in tensors_of(output) if tensor.is_floating_point()]


def _is_same(output: Tensor, result: Tensor) -> bool:
    if output.ndim == 3 and result.shape == (output.shape[0], output.shape[2]):  # one of the tokens was picked
        return bool((output.to(result) == result[:, None]).all(dim=-1).any(dim=-1).all())
    if output.numel() != result.numel() or len(output) * result.shape[-1] == 0:
        return False
    same = output.data_ptr() == result.data_ptr()
    return same or bool(torch.isclose(output.to(result).flatten(), result.flatten(), 0, 0, equal_nan=True).all())


def _is_increasing(output: Tensor, result: Tensor) -> bool:
    if output.shape != result.shape or output.ndim < 2 or output.shape[-1] < 2:
        return False
    steps = result.gather(-1, output.argsort(dim=-1)).diff(dim=-1)
    return bool((steps >= -1e-6 * result.abs().max()).all())
