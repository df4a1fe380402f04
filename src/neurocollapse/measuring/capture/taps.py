"""Takes features from a model while it runs, with hooks: the input of its head, the outputs of its layers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..._errors import InputError
from ...networks import (
    CONVOLUTIONS,
    Calls,
    Head,
    candidates_for,
    check_linear,
    first_tensor,
    head_of_output,
    modules_by_name,
    read_head,
    tensors_of,
)
from .decisions import Tally, count, picked_by_the_model
from .inputs import WEIGHTED, mean_patch
from .loaders import Batch
from .samples import Picked, Place, Positions, Rows

#: Modules that compute without having parameters.
ACTIVATIONS = tuple(getattr(nn.modules.activation, name) for name in nn.modules.activation.__all__)


class Tap:
    """A context that has hooks on a model while it is open. Call `start(batch)`, the model, then `finish`."""

    def __init__(self, positions: Positions):
        self.positions = positions
        self.batch: Batch | None = None
        self.handles: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self.handles:
            self.handles.pop().remove()

    def rows(self, place: Place, values: Any, picked: Picked | None = None, positions: Positions | None = None) -> Rows:
        """Returns a copy of the rows at a place, since the model may later change its tensors in place."""
        assert self.batch is not None
        value = first_tensor(place, values).detach()
        mask = self.batch.kwargs.get("attention_mask")
        rows = replace(positions or self.positions, picked=picked)(place, value, self.batch.labels, mask)
        shared = rows.features.untyped_storage().data_ptr() == value.untyped_storage().data_ptr()
        return rows._replace(features=rows.features.clone()) if shared else rows


class HeadTap(Tap):
    """Takes the input of the head. A head without a name is found by the outputs of the first forward pass.

    Where the model returns the output of one token, that token's input is taken, whichever was asked for.
    """

    def __init__(self, model: nn.Module, name: str | nn.Module | None, positions: Positions, tally: Tally):
        super().__init__(positions)
        self.model, self.is_named, self.tally = model, name is not None, tally
        self.candidates = candidates_for(model, name)
        self.calls = Calls(self.candidates, copied=self.is_named)
        self.head: Head | None = None
        self.is_linear = True
        self.picked: Picked | None = None  # in the last batch, if the model decided by others than those asked for

    def __enter__(self) -> Self:
        self.calls.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.calls.__exit__()
        super().__exit__()

    def start(self, batch: Batch) -> None:
        """Prepares for the forward pass of a batch."""
        self.batch = batch
        self.calls.clear()

    def finish(self, output: object) -> Rows:
        """Returns the rows of the head's input in the forward pass that gave `output`. Raises `ValueError`."""
        if self.head is None:
            self._find(output)
        assert self.head is not None
        assert self.batch is not None
        if self.calls.counts[self.head.name] != 1:
            raise _called(self.head.name, self.calls.counts[self.head.name])
        call = self.calls.of(self.head.name)
        labels = self.batch.labels
        place = Place(self.head.name, self.head.module, is_head=True)
        asked = self.rows(place, call.input)
        count(self.tally, self.head, call, output, labels, asked, is_linear=self.is_linear)
        self.picked = picked_by_the_model(self.head, call, output, labels, asked)
        taken = asked
        if self.picked is not None:
            taken = self.rows(place, call.input, self.picked)
            self.tally.replaced += int((taken.features != asked.features).any(dim=1).sum())
        if not self.calls.copied:
            self._watch_the_head_alone()
        self.calls.clear()
        return taken

    def _find(self, output: object) -> None:
        if self.is_named:
            (name,) = self.candidates
            if not self.calls.last:
                raise _called(name, 0)
            call = self.calls.last[-1]
        else:
            call = head_of_output(self.model, self.calls.last, output, self.candidates)
        if self.calls.counts[call.name] > 1:
            raise _called(call.name, self.calls.counts[call.name])
        if call.input_has_changed:
            raise InputError(f"the model changes the input of its head in place; pass head={call.name!r}")
        self.head = read_head(self.model, call.name, self.candidates[call.name])
        if call.output is None or call.output.is_inference() or not call.output_has_changed:
            self.is_linear = check_linear(self.head, call.input, call.output)

    def _watch_the_head_alone(self) -> None:
        assert self.head is not None
        self.calls.__exit__()
        self.calls = Calls({self.head.name: self.head.module}, copied=True)
        self.calls.__enter__()


def _is_per_sample(output: object, samples: int) -> bool:
    tensors = tensors_of(output)
    return bool(tensors) and tensors[0].ndim > 0 and len(tensors[0]) == samples


def _called(name: str, times: int) -> InputError:
    reason = "its weight may be used without calling it" if not times else "it then has several inputs for one label"
    return InputError(
        f"the head {name!r} was called {times} times in one forward pass, not once ({reason}); pass head= another "
        f"layer, or let the model call it once"
    )


@dataclass(frozen=True)
class InputOf:
    """The key of the rows of a layer's input, beside those of its output under its name."""

    layer: str

    def __str__(self) -> str:
        return self.layer


class LayerTap(Tap):
    """Takes the outputs of the named layers, or of all that compute, in the order in which they run.

    With `inputs` also the inputs of those that have a weight.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str], positions: Positions, *, inputs: bool = False):
        super().__init__(positions)
        self.inputs = inputs
        self.all = layers == "all"
        modules = modules_by_name(model)
        self.layers = computing_layers(modules) if self.all else _named(modules, layers)
        self.names: list[str] | None = None
        self.picked: Picked | None = None
        self.taken: dict[str, list[tuple[Rows, Rows | None]]] = {}
        #: the layers with a weight by the names that their rows have
        self.weighted: dict[str, nn.Module] = {}

    def __enter__(self) -> Self:
        for name, module in self.layers.items():
            hook = self._after(Place(name, module))
            self.handles.append(module.register_forward_hook(hook, with_kwargs=True))
        return self

    def start(self, batch: Batch, picked: Picked | None = None) -> None:
        """Prepares for the forward pass of a batch, and to take the positions that are picked."""
        self.batch, self.picked = batch, picked
        self.taken = {}

    def finish(self, head: Head | None) -> dict[str | InputOf, Rows]:
        """Returns the rows of every layer in the last forward pass by name; name#1, name#2 if it ran repeatedly."""
        self.batch = None
        order = self.taken if self.all else self.layers
        result: dict[str, tuple[Rows, Rows | None]] = {}
        for name in order:
            if self.all and head is not None and name == head.name:
                continue
            calls = self.taken.get(name, [])
            if not calls:
                raise InputError(f"layer {name!r} was not called in the forward pass; leave it out of layers=")
            found = {name: calls[0]} if len(calls) == 1 else {f"{name}#{i}": c for i, c in enumerate(calls, 1)}
            if self.inputs and isinstance(self.layers[name], WEIGHTED):
                self.weighted |= dict.fromkeys(found, self.layers[name])
            result |= found
        if self.names is None:
            self.names = list(result)
        if self.names != list(result):
            changed = sorted({*self.names} ^ {*result}) or list(result)
            raise InputError(f"layers ran otherwise than in the first batch: {', '.join(changed)}; leave these out")
        outputs = {name: rows for name, (rows, _) in result.items()}
        return outputs | {InputOf(name): rows for name, (_, rows) in result.items() if rows is not None}

    def _after(self, place: Place) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
            if self.batch is None:  # the model runs before there is something to take
                return
            if self.all and not _is_per_sample(output, len(self.batch.labels)):
                return  # such as the embeddings of positions, the same for all samples
            rows = self.rows(place, output, self.picked)
            taken = self._input_rows(place, first_tensor(place, [*args, *kwargs.values()])) if self.inputs else None
            self.taken.setdefault(place.name, []).append((rows, taken))

        return hook

    def _input_rows(self, place: Place, value: Tensor) -> Rows | None:
        """Returns the rows of a layer's input, or None for one whose classes of inputs are not those of a weight.

        These are layers without a weight, and convolutions in groups, or of maps that have a label at every position.
        """
        assert self.batch is not None
        if isinstance(place.module, nn.Linear):
            positions = replace(self.positions, spatial="mean")  # a row is as wide as the weight
            return self.rows(place, value, self.picked, positions)
        labels = self.batch.labels
        if not isinstance(place.module, CONVOLUTIONS) or place.module.groups > 1 or labels.numel() != len(value):
            return None
        return self.rows(place, mean_patch(place.module, value))


def computing_layers(modules: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """Returns the modules without parts that have parameters or are activations: not dropout, pooling, reshaping."""

    def computes(module: nn.Module) -> bool:
        has_parts = set(module._modules) - {"parametrizations"}
        return isinstance(module, ACTIVATIONS) or (not has_parts and any(True for _ in module.parameters()))

    return {name: module for name, module in modules.items() if name and computes(module)}


def _named(modules: dict[str, nn.Module], layers: Sequence[str]) -> dict[str, nn.Module]:
    names = [layers] if isinstance(layers, str) else list(layers)
    unknown = [name for name in names if name not in modules]
    if unknown:
        known = [name for name in modules if name]
        listed = ", ".join(known[:20]) + (", …" if len(known) > 20 else "")
        raise InputError(f"there is no layer {unknown[0]!r}; the model has {listed}")
    return {name: modules[name] for name in names}
