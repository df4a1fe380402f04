"""Finds the linear layers with nothing between that stand just before a network's classifier."""

import math
from contextlib import suppress
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .calls import Call, Calls
from .heads import find_classifier
from .modes import evaluation, in_training
from .wrappers import modules_by_name


@dataclass(frozen=True)
class LinearTail:
    """The linear layers without bias just before the classifier, by name, the nearest first, and what ends them."""

    layers: tuple[str, ...] = ()
    ended_by: str = ""


def find_linear_tail(model: nn.Module, inputs: Float[Tensor, "samples *shape"]) -> LinearTail:
    """Returns the linear tail that a forward pass of `inputs` shows; the model is left as it was.

    A layer belongs to it if it is an `nn.Linear` without a bias that trains, is called once, on vectors, multiplies by
    its weight and does nothing else, and gives its output to the next as it is, in evaluation and in training; so
    dropout ends it. Raises `NetworkError` if there is no classifier.

    >>> model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3, bias=False), nn.Linear(3, 2))
    >>> find_linear_tail(model, torch.ones(2, 4))
    LinearTail(layers=('2',), ended_by='ReLU 1')
    """
    classifier = find_classifier(model, inputs)
    name = next(name for name, module in modules_by_name(model).items() if module is classifier)
    generators = torch.random.fork_rng(devices=[inputs.device] if inputs.is_cuda else [])
    with torch.no_grad(), generators:
        with evaluation(model):
            found = _tail(model, inputs, name)
        if found.layers:
            with suppress(Exception):  # of the model's own code, which may want more in training, such as targets
                found = min(found, _tail(in_training(model), inputs, name), key=lambda tail: len(tail.layers))
    return found


def _tail(model: nn.Module, inputs: Float[Tensor, "samples *shape"], classifier: str) -> LinearTail:
    """The linear tail in the present mode of the model."""
    leaves = {name: module for name, module in modules_by_name(model).items() if _is_leaf(name, module)}
    with Calls(leaves, kept=None) as calls:
        model(inputs)
    *before, call = calls.last
    while call.name != classifier:
        *before, call = before
    layers: list[str] = []
    while True:
        places = [place for place, earlier in enumerate(before) if _gives(earlier, call)]
        if not places:
            return LinearTail(tuple(layers), "a function called between modules" if before else "the input")
        giver, before = before[places[-1]], before[: places[-1]]
        module = leaves[giver.name]
        if isinstance(module, nn.Linear):
            fault = _fault(module, giver, calls.counts[giver.name])
            if fault is not None:
                return LinearTail(tuple(layers), f"{giver.name}, which {fault}")
            layers.append(giver.name)
        elif not isinstance(module, nn.Identity | nn.Flatten) or not _gives(giver, giver):
            return LinearTail(tuple(layers), f"{type(module).__name__} {giver.name}")
        call = giver


def _is_leaf(name: str, module: nn.Module) -> bool:
    return not set(module._modules) - {"parametrizations"} and "parametrizations" not in name.split(".")


def _fault(module: nn.Linear, call: Call, times: int) -> str | None:
    """Why a linear layer that is called so often does not belong to a tail; None if it does."""
    if module.bias is not None:
        return "has a bias"
    if "weight" not in module._parameters:
        return "computes its weight from other parameters"
    if not module.weight.requires_grad:
        return "is frozen"
    if times > 1:
        return f"is called {times} times"
    if call.input.ndim != 2:
        return "takes several vectors of a sample"
    if call.input_has_changed:
        return "takes an input that is changed in place later"
    # A subclass, a hook or a change that no version counts may have done more.
    product = nn.functional.linear(call.input, module.weight)
    missed = torch.linalg.norm(call.output - product) if call.output is not None else product.new_tensor(math.inf)
    if missed > math.sqrt(torch.finfo(product.dtype).eps) * torch.linalg.norm(product):
        return "does more than multiply by its weight"
    return None


def _gives(earlier: Call, call: Call) -> bool:
    """Whether the output of one call is the input of another as it is: the same memory, not changed in between."""
    output, taken = earlier.output, call.input
    if output is None or output.numel() != taken.numel() or output.data_ptr() != taken.data_ptr():
        return False
    return earlier.output_version == call.version
