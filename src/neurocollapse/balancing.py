"""Balanced weights: of all that make the same function by rescaling channels, those of least norm.

A ReLU lets positive factors through, so that a channel's incoming weights times c and its outgoing ones divided by c
leave f as it is. Σ‖W_l‖² is least where every channel's incoming and outgoing norms are equal, as they are at every
critical point of Eq. 1 with λ > 0; of gradient flow the difference of their squares decays as e^{−2λt}.
"""

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .networks import NetworkError

#: After an epoch weights are not far from balance: three sweeps find it to a few parts in a thousand.
_SWEEPS = 3


@dataclass(frozen=True)
class Layer:
    """The live weights of a layer: a channel is a row of them."""

    name: str
    weight: Float[Tensor, "channels *inputs"]
    bias: Float[Tensor, " channels"] | None

    @property
    def incoming(self) -> Float[Tensor, " channels"]:
        """The norm of each channel's incoming weights, its bias included."""
        rows = self.weight.flatten(1)
        if self.bias is not None:
            rows = torch.cat([rows, self.bias[:, None]], dim=1)
        return torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)

    def by_input(self, channels: int) -> Float[Tensor, "own channels entries"]:
        """The weights that each of so many channels of the layer before enters: behind a flattening several columns."""
        return self.weight.reshape(len(self.weight), channels, -1)


@torch.no_grad()
def balance(layers: Sequence[Layer], sweeps: int = _SWEEPS) -> None:
    """Rescale the channels of `find_layers`, in place, towards the least Σ‖W_l‖² that makes the same f.

    A sweep goes through the layers and takes c = √(‖outgoing‖/‖incoming‖) of every channel, which is the minimum over
    that layer's factors: Stock et al. (2019, Equi-normalization). A channel with a side of zeros is left alone.
    """
    for _ in range(sweeps):
        for layer, following in itertools.pairwise(layers):
            incoming = layer.incoming
            columns = following.by_input(len(incoming))
            outgoing = torch.linalg.vector_norm(columns, dim=(0, 2), dtype=torch.float64)
            factors = (outgoing / incoming).sqrt()
            rescale(layer, following, torch.where(factors.isfinite() & (factors > 0), factors, 1.0))


def rescale(layer: Layer, following: Layer, factors: Float[Tensor, " channels"]) -> None:
    """Multiply each channel of a layer by its factor, and divide what it enters of the layer that follows by it."""
    factors = factors.to(layer.weight.dtype)
    layer.weight.mul_(factors.view(-1, *[1] * (layer.weight.ndim - 1)))
    if layer.bias is not None:
        layer.bias.mul_(factors)
    columns = following.by_input(len(factors)) / factors[:, None]
    following.weight.copy_(columns.view(following.weight.shape))


def find_layers(model: nn.Module, inputs: Float[Tensor, "samples *shape"]) -> list[Layer]:
    """The layers that train, in the order of definition.

    Raises `NetworkError` where they do not follow one another so that rescaling leaves f as it is, which is tried on
    `inputs`, two or more: with other weights, on a copy.
    """
    twin = copy.deepcopy(model).train()  # normalisation shows only in training
    layers = _layers(twin)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad(), torch.random.fork_rng(devices=[inputs.device] if inputs.is_cuda else []):
        for layer in layers:
            for tensor in (layer.weight, layer.bias):
                if tensor is not None:  # drawn, so that none is zero and hides what it does
                    spread = (2 / max(tensor[0].numel(), 1)) ** 0.5
                    tensor.copy_(spread * torch.randn(tensor.shape, generator=generator))
        outputs = _seeded_outputs(twin, inputs)
        for layer, following in itertools.pairwise(layers):
            channels = len(layer.weight)
            follows = following.weight[0].numel() % channels == 0
            if follows:
                factors = torch.exp2(2 * torch.rand(channels, generator=generator) - 1)
                rescale(layer, following, factors.to(layer.weight.device))
                change = torch.linalg.norm(_seeded_outputs(twin, inputs) - outputs)
                follows = bool(change < 1e-4 * torch.linalg.norm(outputs))
            if not follows:
                raise NetworkError(
                    f"the channels of {type(model).__name__} cannot be balanced: its output changes where those of "
                    f"{layer.name} are multiplied and the weights of {following.name} divided; balancing is for layers "
                    f"that follow one another through ReLUs, without normalisation: take balancing none"
                )
    return _layers(model)


def _layers(model: nn.Module) -> list[Layer]:
    """What trains of each module, as `networks.layer_weights` counts layers."""
    layers = []
    for prefix, module in model.named_modules():
        own = {name: p for name, p in module.named_parameters(recurse=False) if p.requires_grad}
        bias = own.get("bias")
        for name, weight in own.items():
            if weight.ndim >= 2:
                of_rows = bias is not None and bias.shape == weight.shape[:1]
                layers.append(Layer(f"{prefix}.{name}".lstrip("."), weight, bias if of_rows else None))
    return layers


def _seeded_outputs(model: nn.Module, inputs: Tensor) -> Tensor:
    """The same each time, with dropout too."""
    torch.manual_seed(0)
    return model(inputs)
