"""Small PyTorch models for tests, and how a test sees that a model was left as found."""

from functools import partial

import torch
from torch import nn


class Model(nn.Module):
    """Named parts, and a forward pass given as a function of the model and its inputs."""

    def __init__(self, forward, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.forward = partial(forward, self)


def found(model):
    """All that must stay: the modes and hooks of every module, every number, and the global random generator."""
    modules = {
        name: (module.training, len(module._forward_pre_hooks), len(module._forward_hooks))
        for name, module in model.named_modules()
    }
    numbers = {name: value.tolist() for name, value in model.state_dict().items()}
    return modules, numbers, torch.random.get_rng_state().tolist()
