"""What the tests of training share: data, all states of a run, and objectives on all data at once."""

from dataclasses import replace

import torch
from torch import nn

from neurocollapse.datasets import Dataset, Split, load_dataset
from neurocollapse.training import FullBatch, State, epochs
from tests.modules import Model

GAUSSIAN = load_dataset("gaussian")
FEW = load_dataset("gaussian", per_class=25)


def kept(state: State) -> State:
    """With tensors of its own on the CPU: those yielded are the live ones."""
    return replace(state, tensors={name: tensor.cpu().clone() for name, tensor in state.tensors.items()})


def history(config, dataset=GAUSSIAN, **options):
    """All states of a run."""
    return [kept(state) for state in epochs(config, dataset, **options)]


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def toy(counts, shape=(6,), test=True):
    """Random samples in the given numbers a class."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))

    def split():
        return Split(torch.randn(len(labels), *shape, generator=generator), labels)

    return Dataset("toy", split(), split() if test else None, len(counts), "0" * 64, ())


def images(shape=(2, 9, 8), classes=3, samples=70):
    """Random, around a random image of their class."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(samples) % classes
    pixels = torch.randn(samples, *shape, generator=generator)
    means = torch.randn(classes, *shape, generator=generator)
    return Dataset("images", Split(pixels + means[labels], labels), None, classes, "0" * 64, ())


def decayed(model, inputs, labels, weight_decay):
    """Eq. 1 with the same λ for every parameter."""
    return FullBatch(model, inputs, labels, {name: weight_decay for name, _ in model.named_parameters()})


def corner():
    """f = (1 + |w|, 0) for the target (0, 1): least at w = 0, where the gradient is of size one on both sides."""

    def forward(model, inputs):
        f = inputs[:, :1] + model.weight.abs()
        return torch.cat([f, torch.zeros_like(f)], dim=1)

    model = Model(forward, weight=nn.Parameter(torch.tensor([0.5])))
    return FullBatch(model, torch.ones(2, 1), torch.tensor([1, 1]), {})
