"""The classifier head of any model: which module it is, and its effective weight."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ..._errors import CaptureWarning, InputError
from .samples import tensors_of

#: The rows on which a head is checked to be linear.
CHECKED_ROWS = 64

#: What wrappers put into the names of the modules inside them.
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
#: Modules that may skip calling their parts, and do so unless a hook is on them; no head lies in them.
FUSED = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Head:
    """The last linear layer of a model, f = W h + b, with the weight as it takes effect (after weight normalisation).

    A module of the user's own that has a `weight` (classes, features), such as a cosine classifier, counts as if it
    computed W h + b of the features and the weight as they are: `capture` warns where it does not.
    """

    name: str
    module: nn.Module
    weight: Float[Tensor, "classes features"]
    bias: Float[Tensor, " classes"] | None


def find_head(model: nn.Module, name: str | None = None) -> Head:
    """The head called `name`, dotted as in `model.named_modules()`, or without a name the only one possible.

    Possible are `nn.Linear`, also weight- or spectrally normalised, 1×1 convolutions, and modules of one's own with a
    `weight` (classes, features). With several, only a forward pass tells which one gives the model's output: `capture`
    finds out on the first batch.

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


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside `torch.compile`, DataParallel and DistributedDataParallel, which can run by itself."""
    while True:
        if "_orig_mod" in model._modules:
            model = model.get_submodule("_orig_mod")
        elif isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        else:
            return model


def modules_by_name(model: nn.Module) -> dict[str, nn.Module]:
    """All modules by the names that they have without wrappers."""

    def plain(name: str) -> str:
        return ".".join(part for part in name.split(".") if part not in WRAPPERS)

    # what is wrapped comes later under the same name, and replaces its wrapper
    return {plain(name): module for name, module in unwrap(model).named_modules()}


def head_candidates(model: nn.Module) -> dict[str, nn.Module]:
    """Every module that may be a head, by name, in the order of definition."""
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


def candidates_for(model: nn.Module, name: str | None) -> dict[str, nn.Module]:
    """The one head of this name, or without a name every module that may be it. Raises `ValueError`: there is none."""
    candidates = head_candidates(model)
    if name is None:
        if not candidates:
            raise InputError(_which(model, "has no layer that may be its head", candidates))
        return candidates
    for known in (name, name.removeprefix("module.")):  # as it is called within DistributedDataParallel
        if known in candidates:
            return {known: candidates[known]}
    module = modules_by_name(model).get(name)
    fault = "is not there" if module is None else f"is {type(module).__name__}, which is no linear map to the classes"
    raise InputError(_which(model, f"has no head {name!r}: it {fault}", candidates))


def _which(model: nn.Module, fault: str, candidates: Sequence[str] | dict[str, nn.Module]) -> str:
    listed = ", ".join(candidates) if len(candidates) <= 12 else f"{', '.join(list(candidates)[-12:])}, and more before"
    choice = (
        f"pass head= one of: {listed}"
        if candidates
        else ("it needs an nn.Linear, a 1×1 convolution, or a module with a weight (classes, features)")
    )
    return f"{type(unwrap(model)).__name__} {fault}; {choice}"


# ---- which candidate is the head


@dataclass
class Call:
    """One call of a candidate during a forward pass."""

    name: str
    input: Tensor
    version: int  # of the input's numbers when the candidate saw them
    output: Tensor | None = None


def head_of_output(model: nn.Module, calls: Sequence[Call], output: object, candidates: dict[str, nn.Module]) -> Call:
    """The call whose output is the model's output, or failing that a row-wise increasing function of it.

    Such functions are softmax, log-softmax and a temperature. Raises `ValueError` unless there is exactly one.
    """
    results = [tensor for tensor in tensors_of(output) if tensor.is_floating_point()]
    found: list[Call] = []
    for test in (_is_same, _is_increasing):
        found = [c for c in calls if c.output is not None and any(test(c.output, result) for result in results)]
        if found:
            break
    names = dict.fromkeys(call.name for call in found)
    if not names:
        shapes = (
            ", ".join(str(tuple(result.shape)) for result in results) or f"{type(output).__name__}, without numbers"
        )
        raise InputError(_which(model, f"returns {shapes}, which is the output of no possible head", candidates))
    if len(names) > 1:
        raise InputError(_which(model, f"returns the outputs of {len(names)} possible heads", list(names)))
    return found[-1]


def gives(output: Tensor | None, result: Tensor) -> bool:
    """Whether a head's output is the model's, or in every row in the same order."""
    return output is not None and (_is_same(output, result) or _is_increasing(output, result))


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


# ---- its weight


def check_linear(head: Head, value: Tensor, output: Tensor | None) -> None:
    """Warn where the output of a head is not W h + b on the first few rows; `ValueError` where W does not fit."""
    if output is None:
        raise InputError(f"the head {head.name!r} returns no tensor; pass head= another layer")
    first = isinstance(head.module, CONVOLUTIONS)
    # on the CPU, since not every device has float64
    h, f = ((x.movedim(1, -1) if first else x).flatten(0, -2)[:CHECKED_ROWS].cpu().double() for x in (value, output))
    W, b = head.weight.cpu().double(), None if head.bias is None else head.bias.cpu().double()
    if W.shape != (f.shape[-1], h.shape[-1]):
        raise InputError(
            f"the head {head.name!r} maps {h.shape[-1]} features to {f.shape[-1]} outputs, but its weight is "
            f"{tuple(W.shape)}; it must be (classes, features)"
        )
    expected = nn.functional.linear(h, W, b)
    # a twentieth, since outputs in bfloat16 are within it, and a head that is not linear is not
    if (expected - f).abs().max() > 0.05 * expected.abs().max():
        warnings.warn(
            f"the head {head.name!r} computes something else than W h + b; what reads its weight (NC3, NC4, margins, "
            f"accuracy) is of W h + b, with its weight and its input as they are",
            CaptureWarning,
            stacklevel=2,
        )


def read_head(model: nn.Module, name: str, module: nn.Module) -> Head:
    """The head with its effective weight, gathered from all processes where it is sharded."""
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


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode within the context, and afterwards in the mode that it was in.

    The flags are set directly: `train()`, which a model may override, need not undo itself.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode
