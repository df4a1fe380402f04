"""Captures the features of the head and of any layers in one forward pass over a data loader."""

import itertools
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self, TypedDict

import torch
from torch import Tensor, nn

from ..._errors import InputError, SampleError
from ...networks import Head, evaluation, unwrap
from ...statistics import hint_of
from .cautions import warn_of, warn_of_training
from .decisions import Tally, without_autocast
from .drawn import Drawn
from .inputs import Weighted
from .loaders import Batch, as_loader, batches, precision_of, to_device
from .names import Names, Origin
from .next_tokens import NextTokens
from .samples import Positions, Rows
from .store import Budget, FeatureStore
from .stores import Key, Sink, Stores
from .taps import HeadTap, InputOf, LayerTap

#: 4 GiB: half a million samples of 2048 float32 features, and a quarter of the memory of a common laptop.
MEMORY_BUDGET = 4 * 2**30


class CaptureOptions(TypedDict, total=False):
    """The arguments of `capture` that other functions pass on: how to read the data and the positions."""

    spatial: str
    tokens: str | int | None
    ignore_index: int
    device: torch.device | str | None
    label_key: str | int | None
    autocast_dtype: torch.dtype | None
    eval_mode: bool
    memory_budget: int
    folder: Path | None
    progress: Callable[[int, int | None], object] | None
    max_per_class: int | None


@dataclass(frozen=True)
class Captured:
    """The result of a forward pass: the head, its input in `features`, and the outputs of layers by name.

    `head` and `features` are None if no head was captured; `features` is also None if a sink took them. Close it, or
    use it as a context, to release memory and temporary files.
    """

    head: Head | None
    features: FeatureStore | None = None
    layers: dict[str, FeatureStore] = field(default_factory=dict)
    #: the names of the samples in `features`, under None, and in each of the layers
    names: dict[Key, Names] = field(default_factory=dict)
    #: of the layers that have a weight, if `inputs` were asked for
    weighted: dict[str, Weighted] = field(default_factory=dict)
    #: ε of the coarsest type that the model computed in: that of its parameters, or of an autocast
    precision: float = 0.0

    def close(self) -> None:
        """Releases memory and temporary files."""
        for store in self.stores().values():
            store.close()

    def stores(self) -> dict[Key, FeatureStore]:
        """Returns all that was kept, by place."""
        places: list[tuple[Key, FeatureStore | None]] = [(None, self.features), *self.layers.items()]
        places += [(InputOf(name), layer.inputs) for name, layer in self.weighted.items()]
        return {key: store for key, store in places if store is not None}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def capture(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    head: str | nn.Module | Literal[False] | None = None,
    layers: Sequence[str] | Literal["all"] = (),
    inputs: bool = False,
    spatial: str = "flatten",
    tokens: str | int | None = None,
    ignore_index: int = -100,
    device: torch.device | str | None = None,
    label_key: str | int | None = None,
    autocast_dtype: torch.dtype | None = None,
    eval_mode: bool = True,
    memory_budget: int = MEMORY_BUDGET,
    folder: Path | None = None,
    progress: Callable[[int, int | None], object] | None = None,
    max_per_class: int | None = None,
    sink: Sink | None = None,
    tally: Tally | None = None,
) -> Captured:
    """Captures the input of a model's classifier head, and the outputs of layers, in one forward pass over a loader.

    The model runs in evaluation mode, without gradients and, if it is compiled, eagerly, since hooks would compile the
    graph again. Afterwards, also after an exception, the hooks are removed, and the modes of the modules and the global
    random generator are restored. DataParallel and DistributedDataParallel are bypassed, so that processes with shards
    of unequal length do not wait for one another.

    Features are copied when the head is called, or when the layer returns, in the type that they have there, such as
    bfloat16 under autocast.

    Args:
        model: any classifier; it may return a tensor, an object with `logits`, a mapping, or a tuple.
        loader: yields (inputs, labels, ...) or mappings: see `batches`.
        head: the head, a module or its name; None finds the `nn.Linear`, 1×1 convolution or module with a weight
            (classes, features) whose output is the model's, or has the same order in every row, as with softmax. False
            captures layers alone.
        layers: names as in `model.named_modules()`, or "all": every module without parts that has parameters or is
            an activation, and attention, in the order of execution, without the head. A layer that runs repeatedly in a
            pass gives name#1, name#2, ...
        inputs: also keep the inputs of layers that have a weight.
        spatial: how maps (samples, channels, *positions) become features: "flatten" takes every number, "mean" averages
            the positions.
        tokens: how sequences (samples, tokens, features) become features if there is one label per sample: "first",
            "last" or a position takes that token; "mean" averages them; "all" makes each token a sample. Tokens masked
            by `attention_mask` do not count, except in counting a position. None averages a layer's tokens, and is an
            error for the head's.
        ignore_index: samples, or positions, with this label are left out. Labels for each position, (samples, tokens)
            for tokens or (samples, height, width) for pixels, make every position a sample. They are used as they
            are, but those that a language model shifts in training, as its own loss shows, are shifted by one.
        device: the device for the inputs; by default that of the model's first parameter. Their precision is the
            model's.
        label_key: where the labels are: a key of mappings, or a position in tuples.
        autocast_dtype: run the model under autocast in this type.
        eval_mode: False leaves every module in its present mode.
        memory_budget: bytes of features, of all layers together, to hold in memory before they go to a file.
        folder: the folder of that temporary file; by default the system's.
        progress: called after each batch as progress(batches done, batches in all, or None if not known).
        max_per_class: keep only the first so many samples, or positions, of each class.
        sink: takes the features of the head, or of one layer, so that they are not kept: called as
            sink(features, labels, head) for each batch, with the features on the model's device.
        tally: takes the counts of decisions that are not the model's, which otherwise a warning gives.

    Raises:
        ValueError: there is no such head or layer, or several may be the head; the loader yields nothing or no labels;
            labels are not integers, out of range, or do not fit the features.
        FeatureStoreError: a temporary file cannot be written.

    Warns:
        CaptureWarning: something would make a number wrong: samples left out or repeated, random augmentation, modules
            in training mode, a head that is not linear, or that decides otherwise than the model does.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> loader = [(torch.randn(5, 1, 2, 2), torch.tensor([0, 1, 0, 1, 1]))]
    >>> with capture(model, loader, layers=["1"]) as captured:
    ...     captured.head.name, captured.features.features.shape, captured.layers["1"].labels
    ('3', torch.Size([5, 8]), tensor([0, 1, 0, 1, 1]))
    """
    loader = as_loader(loader)
    warn_of(loader, stacklevel=2)
    if not eval_mode:
        warn_of_training(model)
    place, precision = torch.device(device) if device else _device_of(model), precision_of(model)
    batches_in_all, samples = _length(loader), _length(getattr(loader, "sampler", None))
    with ExitStack() as stack:
        # a loader draws from the generator even where it does not shuffle
        for context in (torch.random.fork_rng(devices=[]), torch.no_grad(), _eager()):
            stack.enter_context(context)
        if eval_mode:
            stack.enter_context(evaluation(model))
        decisions = Tally() if tally is None else tally
        positions = Positions(spatial, tokens, ignore_index)
        taps = stack.enter_context(_Taps(model, head, layers, inputs, positions, decisions))
        if sink is not None and not taps.is_single:
            raise InputError("a sink takes features of one place: the head alone, or with head=False one layer")
        stores = Stores(Budget(memory_budget), folder, samples, max_per_class)
        stack.push(stores.close_on_error)
        autocast = torch.autocast(place.type, autocast_dtype) if autocast_dtype else nullcontext()
        drawn = Drawn(loader)
        loaded = batches(drawn, model, label_key=label_key)
        read = ((to_device(batch, place, precision), drawn.origin(batch)) for batch in loaded)
        for done, (batch, labels, origin) in enumerate(taps.next_tokens.of(read), start=1):
            with autocast:
                taken = taps.of(batch, labels, origin)
            with without_autocast(place):  # a sink computes in the types that it receives
                stores.keep(taken, origin, sink, taps.head)
            if progress is not None:
                progress(done, batches_in_all)
        if not stores.num_rows:
            raise InputError(f"every label is {ignore_index}, which is to be ignored; pass data with labels")
    drawn.warn(stacklevel=2)
    if tally is None:
        decisions.warn(stacklevel=2)
    kept = stores.by_place
    layers_kept = {name: store for name, store in kept.items() if isinstance(name, str)}
    weighted = {
        name: Weighted(model, name, module, kept.get(InputOf(name))) for name, module in taps.layer_tap.weighted.items()
    }
    return Captured(taps.head, kept.get(None), layers_kept, stores.names, weighted, taps.precision)


class _Taps:
    """The taps of the head and of the layers, and the forward pass between their start and finish."""

    def __init__(
        self,
        model: nn.Module,
        head: str | nn.Module | Literal[False] | None,
        layers: Sequence[str],
        inputs: bool,
        positions: Positions,
        tally: Tally,
    ):
        self.model, self.positions = unwrap(model), positions
        self.next_tokens = NextTokens(self.model, positions.ignore_index)
        self.head_tap = None if head is False else HeadTap(model, head, positions, tally)
        self.layer_tap = LayerTap(model, layers, positions, inputs=inputs)
        self.precision = _precision_of_parameters(model)
        if self.head_tap is None and not self.layer_tap.layers:
            raise InputError("there is nothing to capture: head is False, and layers names none")

    @property
    def head(self) -> Head | None:
        return None if self.head_tap is None else self.head_tap.head

    @property
    def is_single(self) -> bool:
        return len(self.layer_tap.layers) + (self.head_tap is not None) == 1

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for tap in (self.head_tap, self.layer_tap):
                if tap is not None:
                    stack.enter_context(tap)
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def of(self, batch: Batch, labels: Tensor, origin: Origin) -> dict[Key, Rows]:
        """Returns the rows of a forward pass, under these labels: the head's under None, the layers' by name."""
        self.positions.check(labels)
        shown = replace(batch, labels=labels)
        for tap in (self.head_tap, self.layer_tap):
            if tap is not None:
                tap.start(shown)
        output = self.model(*batch.args, **batch.kwargs)
        self.precision = max(self.precision, _precision_of_autocast(batch.labels.device))
        taken: dict[Key, Rows] = {} if self.head_tap is None else {None: self.head_tap.finish(output)}
        self._check_labels(batch.labels, origin)
        picked = None if self.head_tap is None else self.head_tap.picked
        if picked is not None and self.layer_tap.layers:  # once more, since layers run before the head shows its tokens
            self.layer_tap.start(shown, picked)
            self.model(*batch.args, **batch.kwargs)
        return taken | self.layer_tap.finish(self.head)

    def _check_labels(self, labels: Tensor, origin: Origin) -> None:
        classes = None if self.head is None else len(self.head.weight)
        wrong = (labels < 0) if classes is None else (labels < 0) | (labels >= classes)
        wrong &= labels != self.positions.ignore_index
        if wrong.any():
            first = int(wrong.flatten().nonzero()[0])
            label = int(labels.flatten()[first])
            end = (
                "" if self.head is None else f" and end at {len(self.head.weight) - 1}, by the head {self.head.name!r}"
            )
            fault = f"is out of range: labels start at 0{end}{hint_of(label, labels, classes)}"
            raise SampleError(f"label {label}", origin.name(first), fault)


#: Types that products are computed in. Weights in eight bits are widened first.
_COMPUTED = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _precision_of_parameters(model: nn.Module) -> float:
    return max((torch.finfo(p.dtype).eps for p in model.parameters() if p.dtype in _COMPUTED), default=0.0)


def _precision_of_autocast(device: torch.device) -> float:
    available = torch.amp.is_autocast_available(device.type)
    if not (available and torch.is_autocast_enabled(device.type)):
        return 0.0
    return torch.finfo(torch.get_autocast_dtype(device.type)).eps


def _eager() -> AbstractContextManager[Any]:
    """Runs compiled models without their graphs, since hooks do not reach into graphs that are already compiled."""
    compiled = "torch._dynamo" in sys.modules  # otherwise nothing is compiled, and the import would take seconds
    return (
        torch.compiler.set_stance("force_eager")
        if compiled and hasattr(torch.compiler, "set_stance")
        else nullcontext()
    )


def _device_of(model: nn.Module) -> torch.device:
    tensor = next(itertools.chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


def _length(sized: Any) -> int | None:
    try:
        return len(sized)
    except TypeError:
        return None
