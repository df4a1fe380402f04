"""Finds the classifier head of any model, reads its effective weight, and captures its input."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from .._errors import CaptureWarning, InputError, InputTypeError, NetworkError, did_you_mean
from .calls import Call, Calls, averaged_calls, calls_that_gave, first_tensor, numbers_of
from .modes import evaluation

#: The number of rows on which a head is checked to be linear.
CHECKED_ROWS = 64

#: The parts that wrappers add to the names of the modules inside them.
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
#: Modules that skip calling their parts unless a hook is on them; none contains a head.
FUSED = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
#: What to do about a classifier of two classes with one output.
TWO_ROWS = "a head with the rows −w/2, w/2 and the biases −b/2, b/2 decides alike, from the same features"
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Head:
    """The last linear layer of a model, f = W h + b, with the weight as it takes effect (after weight normalisation).

    A custom module that has a `weight` (classes, features), such as a cosine classifier, is treated as if it computed
    W h + b from the features and the weight as they are: `capture` warns if it does not.
    """

    name: str
    module: nn.Module
    weight: Float[Tensor, "classes features"]
    bias: Float[Tensor, " classes"] | None


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


def unwrap(model: nn.Module) -> nn.Module:
    """Returns the module inside `torch.compile`, DataParallel and DistributedDataParallel, which can run by itself."""
    while True:
        if isinstance(model, torch.jit.ScriptModule):
            return model
        if "_orig_mod" in model._modules:
            model = model.get_submodule("_orig_mod")
        elif isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        else:
            return model


def modules_by_name(model: nn.Module) -> dict[str, nn.Module]:
    """Returns all modules that may have hooks, by the names that they have without wrappers.

    Raises `ValueError` for a model of torch.jit or torch.export, which may have none.
    """
    model = unwrap(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            f"hooks do not reach into a model of torch.jit ({type(model).__name__}), so what its head sees cannot be "
            f"taken; pass the eager model from which it was made"
        )
    if isinstance(model, torch.fx.GraphModule) and not _calls_modules(model):
        raise InputError(
            "hooks do not reach into a graph of torch.export, which calls no modules, so what its head sees cannot be "
            "taken; pass the eager model from which it was made"
        )
    # a wrapped module comes later under the same name, and replaces its wrapper
    return {
        plain_name(name): module
        for name, module in model.named_modules()
        if not isinstance(module, torch.jit.ScriptModule)
    }


def _calls_modules(graph: torch.fx.GraphModule) -> bool:
    """Whether any module with parameters is called, as in a graph that was traced, but not in an exported one."""
    called = [str(node.target) for node in graph.graph.nodes if node.op == "call_module"]
    return any(True for name in called for _ in graph.get_submodule(name).parameters())


def plain_name(name: str) -> str:
    """Returns the name of a module or parameter without the parts that wrappers add."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


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


# ---- its weight


def check_linear(head: Head, value: Tensor, output: Tensor | None) -> bool:
    """Returns whether the output of a head is W h + b to rounding on the first few rows; warns if it is far from that.

    Raises `ValueError` if W does not fit.
    """
    if output is None:
        raise InputError(f"the head {head.name!r} returns no tensor; pass head= another layer")
    first = isinstance(head.module, CONVOLUTIONS)
    # on the CPU, since not every device has float64
    h, f = ((x.movedim(1, -1) if first else x).flatten(0, -2)[:CHECKED_ROWS].cpu().double() for x in (value, output))
    W, b = head.weight.cpu().double(), None if head.bias is None else head.bias.cpu().double()
    if len(W) == 1:
        raise InputError(
            f"the head {head.name!r} has one output, and there must be a row of W for each class; {TWO_ROWS}"
        )
    if W.shape != (f.shape[-1], h.shape[-1]):
        raise InputError(
            f"the head {head.name!r} maps {h.shape[-1]} features to {f.shape[-1]} outputs, but its weight is "
            f"{tuple(W.shape)}; it must be (classes, features)"
        )
    expected = nn.functional.linear(h, W, b)
    error, size = (expected - f).abs().max(), expected.abs().max()
    # a twentieth, since outputs in bfloat16 are within it, and a head that is not linear is not
    if error > 0.05 * size:
        warnings.warn(
            f"the head {head.name!r} computes something else than W h + b; what reads its weight (NC3, NC4, margins, "
            f"accuracy) uses W h + b, with its weight and its input as they are",
            CaptureWarning,
            stacklevel=2,
        )
    is_rounded = output.is_cuda or torch.finfo(output.dtype).bits < 32  # a GPU may multiply in TF32
    return bool(error <= (0.02 if is_rounded else 1e-4) * size)


def read_head(model: nn.Module, name: str, module: nn.Module) -> Head:
    """Returns the head with its effective weight, gathered from all processes if it is sharded."""
    with torch.no_grad(), evaluation(model), _whole_parameters(model):  # in training, reading may change the weight
        weight, bias = module.weight, getattr(module, "bias", None)
        for hook in module._forward_pre_hooks.values():  # these of old set the weight only when the module is called
            if isinstance(hook, WeightNorm) and hook.name == "weight":
                weight = hook.compute_weight(module)
            elif isinstance(hook, SpectralNorm) and hook.name == "weight":
                weight = hook.compute_weight(module, do_power_iteration=False)
        weight = _whole(weight)
        return Head(name, module, weight.flatten(1), _whole(bias) if isinstance(bias, Tensor) else None)


def _whole(parameter: object) -> Tensor:
    assert isinstance(parameter, Tensor)
    gather = getattr(parameter, "full_tensor", None)
    return (parameter if gather is None else gather()).detach().clone()


def _whole_parameters(model: nn.Module) -> AbstractContextManager[None]:
    if not any("_fsdp_wrapped_module" in module._modules for module in model.modules()):
        return nullcontext()
    from torch.distributed.fsdp import FullyShardedDataParallel

    return FullyShardedDataParallel.summon_full_params(unwrap(model), writeback=False)


# ---- its input


@contextmanager
def captured_features(classifier: nn.Module) -> Iterator[list[Tensor]]:
    """Yields a list to which every forward pass in the context appends the classifier's input, (samples, features)."""
    captured: list[Tensor] = []
    handle = classifier.register_forward_pre_hook(
        lambda _, args, kwargs: captured.append(first_tensor("its input", [*args, *kwargs.values()]).detach()),
        with_kwargs=True,
    )
    try:
        yield captured
    finally:
        handle.remove()


def check_head(outputs: object, captured: list[Tensor], classifier: nn.Linear) -> None:
    """Raises `NetworkError` unless `outputs` are the classifier's outputs for the last of its captured inputs.

    Metrics and theory take f = W h + b from the last linear layer, so the network must return it.
    """
    if not isinstance(outputs, Tensor):
        raise NetworkError(
            f"the network returns a {type(outputs).__name__}; return the classifier's output alone, a tensor "
            f"(samples, classes)"
        )
    if not captured:
        raise NetworkError(
            f"the network does not call its last linear layer, {classifier}, the only one with an output for each "
            f"class; return the output of such a layer"
        )
    with torch.no_grad():
        head = nn.functional.linear(captured[-1], classifier.weight, classifier.bias)
    if outputs.shape != head.shape or (outputs - head).abs().max() > 1e-3 * head.abs().max():
        raise NetworkError(
            f"the network's output is not that of its last linear layer, {classifier}; "
            f"return the classifier's output as it is"
        )
