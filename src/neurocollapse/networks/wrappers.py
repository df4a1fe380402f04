"""Looks inside what wraps a model: torch.compile, distributed training, activation checkpoints."""

import torch
from torch import nn

from .._errors import InputError

#: The parts that wrappers add to the names of the modules inside them.
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


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
