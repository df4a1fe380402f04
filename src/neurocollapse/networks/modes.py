"""Sets and restores the mode of every module: training or evaluation."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Restores the mode of every module after the block."""
    modes = [(module, module.training) for module in _with_a_mode(model)]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Puts every module into evaluation mode within the block, and restores its mode afterwards.

    The flags are set directly, since a model may override `train()` in a way that cannot be undone.
    """
    with modes_kept(model):
        for module in _with_a_mode(model):
            module.training = False
        yield


def in_training(model: nn.Module) -> nn.Module:
    """Returns a copy in training mode, which may change itself while it runs, as by running means."""
    copied = copy.deepcopy(model)
    for module in _with_a_mode(copied):
        module.training = True
    return copied


def _with_a_mode(model: nn.Module) -> Iterator[nn.Module]:
    """Yields the modules that have a mode: those that `torch.jit.freeze` makes have none."""
    return (module for module in model.modules() if hasattr(module, "training"))
