"""Training or evaluation: the mode of every module, set for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """After the block every module is in the mode that it was in before."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Every module is in evaluation mode within the block, and afterwards in the mode that it was in.

    The flags are set directly: `train()`, which a model may override, need not undo itself.
    """
    with modes_kept(model):
        for module in model.modules():
            module.training = False
        yield
