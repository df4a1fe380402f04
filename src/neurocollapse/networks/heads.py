"""Finds the classifier head of any model, by name, by elimination or by the output that it gave."""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .._errors import InputError, InputTypeError, NetworkError, did_you_mean
from .calls import Call, Calls, averaged_calls, calls_that_gave, numbers_of
from .linear_heads import CONVOLUTIONS, Head, read_head
from .modes import evaluation
from .wrappers import modules_by_name, unwrap

#: Modules that skip calling their parts unless a hook is on them; none contains a head.
FUSED = (nn.MultiheadAttention, nn.TransformerEncoderLayer)


def find_head(model: nn.Module, name: str | nn.Module | None = None) -> Head:
    """Returns the head called `name`, dotted as in `model.named_modules()`; without a name, the only possible head.

    The module itself may be given in place of its name.

    A head may be an `nn.Linear`, also weight- or spectrally normalised, a 1×1 convolution, or a custom module with a
    `weight` (classes, features). If there are several, only a forward pass shows which one gives the model's output:
    `capture` finds it with the first batch.

    Raises:
        ValueError: there is no such module, it is of another kind, or there are several; the message lists them.

    >>> find_head(nn.Sequential(nn.Flatten(), nn.Linear(4, 3))).name
    '1'
    """
    with evaluation(model):
        candidates = candidates_for(model, name)
        if len(candidates) > 1:
            raise InputError(_which(model, f"has {len(candidates)} layers that may be its head", candidates))
        ((found, module),) = candidates.items()
        return read_head(model, found, module)


def find_classifier(
    model: nn.Module, inputs: Float[Tensor, "samples *shape"], num_classes: int | None = None
) -> nn.Linear:
    """Returns the `nn.Linear` in which a model ends; it must have `num_classes` outputs if that is given.

    If several are possible, the model is run on `inputs`, and this returns the one whose output the model returns. The
    model and the global random generator are left as they were. Raises `NetworkError`.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> find_classifier(model, torch.ones(1, 4)) is model[2]
    True
    """
    candidates = possible_classifiers(model, num_classes)
    if len(candidates) == 1:
        return next(iter(candidates.values()))
    generators = torch.random.fork_rng(devices=[inputs.device] if inputs.is_cuda else [])
    with torch.no_grad(), generators, evaluation(model), Calls(candidates) as calls:
        output = model(inputs)
    found = list(dict.fromkeys(call.name for call in calls_that_gave(calls.last, output)))
    if len(found) != 1:
        fault = f"that of {len(found)} of them ({', '.join(found)})" if found else "that of none of them"
        raise NetworkError(
            f"{type(unwrap(model)).__name__} has {len(candidates)} linear layers, {', '.join(candidates)}, and its "
            f"output is {fault}; return the output of one, the classifier, as it is"
        )
    return candidates[found[0]]


def possible_classifiers(model: nn.Module, num_classes: int | None = None) -> dict[str, nn.Linear]:
    """Returns every `nn.Linear` that may be the head, by name; only those with `num_classes` outputs if that is given.

    Raises `NetworkError` if there is none.
    """
    linears = {name: module for name, module in head_candidates(model).items() if isinstance(module, nn.Linear)}
    if not linears:
        raise NetworkError(f"{type(model).__name__} has no nn.Linear layer, so it has no classifier; end it with one")
    fitting = {name: module for name, module in linears.items() if num_classes in (None, module.out_features)}
    if not fitting:
        *_, last = linears.values()
        raise NetworkError(
            f"the last linear layer of {type(model).__name__} has {last.out_features} outputs, but the data has "
            f"{num_classes} classes"
        )
    return fitting


def head_candidates(model: nn.Module) -> dict[str, nn.Module]:
    """Returns every module that may be a head, by name, in the order of definition."""
    modules = modules_by_name(model)
    hidden = {id(part) for module in modules.values() if isinstance(module, FUSED) for part in module.modules()}
    return {n: m for n, m in modules.items() if id(m) not in hidden and _may_be_head(m)}


def _may_be_head(module: nn.Module) -> bool:
    if isinstance(module, nn.Linear):
        return True
    if isinstance(module, CONVOLUTIONS):
        return set(module.kernel_size) == set(module.stride) == {1} and module.groups == 1
    is_leaf = not set(module._modules) - {"parametrizations"}
    return (
        is_leaf
        and not isinstance(module, nn.Embedding | nn.EmbeddingBag | nn.RNNBase | nn.RNNCellBase)
        and (isinstance(weight := getattr(module, "weight", None), Tensor) and weight.ndim == 2)
    )


def candidates_for(model: nn.Module, name: str | nn.Module | None) -> dict[str, nn.Module]:
    """Returns the head of this name, or without one every possible head. Raises `ValueError` if there is none."""
    if not isinstance(name, str | nn.Module | None):
        raise InputTypeError(
            f"head must be the name of a part of the model, got {type(name).__name__}; a matrix that is no part of it "
            f"is the weight of measure(features, labels, weight, bias)"
        )
    candidates = head_candidates(model)
    if isinstance(name, nn.Module):
        name = _name_in(model, name)
    if name is None:
        if not candidates:
            raise InputError(_which(model, "has no layer that may be its head", candidates))
        return candidates
    for known in (name, name.removeprefix("module.")):  # the prefix that DistributedDataParallel adds
        if known in candidates:
            return {known: candidates[known]}
    if len(inside := [known for known in candidates if known.startswith(f"{name}.")]) == 1:  # with a norm before it
        return {inside[0]: candidates[inside[0]]}
    module = modules_by_name(model).get(name)
    fault = (
        f"is not there{did_you_mean(name, candidates)}"
        if module is None
        else f"is {type(module).__name__}, which is no linear map to the classes"
    )
    raise InputError(_which(model, f"has no head {name!r}: it {fault}", candidates))


def _name_in(model: nn.Module, part: nn.Module) -> str:
    for name, module in modules_by_name(model).items():
        if module is part:
            return name
    raise InputError(_which(model, f"has no such module as the given {part}", head_candidates(model)))


def _which(model: nn.Module, fault: str, candidates: Sequence[str] | dict[str, nn.Module]) -> str:
    listed = ", ".join(candidates) if len(candidates) <= 12 else f"{', '.join(list(candidates)[-12:])}, and more before"
    choice = (
        f"pass head= one of: {listed}"
        if candidates
        else (
            "it needs an nn.Linear, a 1×1 convolution, or a module with a weight (classes, features); "
            "what a backbone without a head returns is measured with measure(features, labels)"
        )
    )
    if any(".quantized" in type(module).__module__ for module in model.modules()):
        fault += " (its quantized layers keep no weight to read: take the model from which they were made)"
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        fault += " (hooks do not reach into its parts of torch.jit)"
    return f"{type(unwrap(model)).__name__} {fault}; {choice}"


def head_of_output(model: nn.Module, calls: Iterable[Call], output: object, candidates: dict[str, nn.Module]) -> Call:
    """Returns the call whose output is the model's output, or of which that is an increasing function in every row.

    Such functions are softmax, log-softmax and a temperature. Raises `ValueError` unless there is exactly one head.
    """
    if pair := averaged_calls(calls, output):
        fault = "returns the mean of two heads, so that neither alone is what it decides by"
        raise InputError(_which(model, fault, [call.name for call in pair]))
    found = calls_that_gave(calls, output)
    names = dict.fromkeys(call.name for call in found)
    if not names:
        shapes = ", ".join(str(tuple(result.shape)) for result in numbers_of(output))
        shapes = shapes or f"{type(output).__name__}, without numbers"
        fault = (
            f"returns {shapes}, which is the output of no possible head (without one, use measure(features, labels))"
        )
        raise InputError(_which(model, fault, candidates))
    if len(names) > 1:
        raise InputError(_which(model, f"returns the outputs of {len(names)} possible heads", list(names)))
    return found[-1]
