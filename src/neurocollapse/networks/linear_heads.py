"""The head as a linear map of the features: its weight as it takes effect, its input, and whether it is one."""

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from .._errors import CaptureWarning, InputError, NetworkError
from .calls import first_tensor
from .modes import evaluation
from .wrappers import unwrap

#: The number of rows on which a head is checked to be linear.
CHECKED_ROWS = 64
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
    if outputs.ndim != 2:
        raise NetworkError(
            f"the network returns outputs of shape {tuple(outputs.shape)}; return one row of outputs for each "
            f"sample, of shape (samples, classes)"
        )
