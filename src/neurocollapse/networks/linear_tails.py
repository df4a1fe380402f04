"""Finds the linear layers with nothing between that stand just before a network's classifier."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .calls import Call, Calls
from .heads import find_classifier
from .modes import evaluation
from .wrappers import modules_by_name


@dataclass(frozen=True)
class LinearTail:
    """The linear layers without bias just before the classifier, by name, the nearest first, and what ends them."""

    layers: tuple[str, ...] = ()
    ended_by: str = ""


def find_linear_tail(model: nn.Module, inputs: Float[Tensor, "samples *shape"]) -> LinearTail:
    """Returns the linear tail that a forward pass of `inputs` shows; the model is left as it was.

    A layer belongs to it if it is an `nn.Linear` without a bias that trains, is called once, and gives its output to
    the next as it is. Dropout ends it also where it is switched off. Raises `NetworkError` if there is no classifier.

    >>> model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3, bias=False), nn.Linear(3, 2))
    >>> find_linear_tail(model, torch.ones(2, 4))
    LinearTail(layers=('2',), ended_by='ReLU 1')
    """
    classifier = find_classifier(model, inputs)
    leaves = {name: module for name, module in modules_by_name(model).items() if not module._modules}
    generators = torch.random.fork_rng(devices=[inputs.device] if inputs.is_cuda else [])
    with torch.no_grad(), generators, evaluation(model), Calls(leaves, kept=None) as calls:
        model(inputs)
    *before, call = calls.last
    while leaves[call.name] is not classifier:
        *before, call = before
    layers: list[str] = []
    while True:
        places = [place for place, earlier in enumerate(before) if _gives(earlier, call)]
        if not places:
            return LinearTail(tuple(layers), "a function called between modules" if before else "the input")
        giver, before = before[places[-1]], before[: places[-1]]
        module = leaves[giver.name]
        if isinstance(module, nn.Linear):
            fault = _fault(module, calls.counts[giver.name])
            if fault is not None:
                return LinearTail(tuple(layers), f"{giver.name}, which {fault}")
            layers.append(giver.name)
        elif not isinstance(module, nn.Identity | nn.Flatten) or not _gives(giver, giver):
            return LinearTail(tuple(layers), f"{type(module).__name__} {giver.name}")
        call = giver


def _fault(module: nn.Linear, times: int) -> str | None:
    """Why a linear layer that is called so often does not belong to a tail; None if it does."""
    if module.bias is not None:
        return "has a bias"
    if not module.weight.requires_grad:
        return "is frozen"
    return f"is called {times} times" if times > 1 else None


def _gives(earlier: Call, call: Call) -> bool:
    """Whether the output of one call is the input of another as it is: the same memory, not changed in between."""
    output, taken = earlier.output, call.input
    if output is None or output.numel() != taken.numel() or output.data_ptr() != taken.data_ptr():
        return False
    return earlier.output_version == call.version
