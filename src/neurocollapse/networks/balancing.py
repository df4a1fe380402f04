"""Balanced weights: of all that make the same function by rescaling channels, those of least norm.

A ReLU lets positive factors through, so that a channel's incoming weights times c and its outgoing ones divided by c
leave f as it is. Σ‖W_l‖² is least where every channel's incoming and outgoing norms are equal, as they are at every
critical point of Eq. 1 with λ > 0; of gradient flow the difference of their squares decays as e^{−2λt}.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from .._errors import NetworkError
from .modes import modes_kept

#: After an epoch weights are not far from balance: three sweeps find it to a few parts in a thousand.
_SWEEPS = 3

#: How often weights are drawn for a network to be tried with, before it is given up as one that is always dead.
_DRAWS = 100


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
    `inputs`, two or more, with other weights. The model is left as it was found.
    """
    with modes_kept(model):
        for training in (True, False):  # normalisation shows only in training
            model.train(training)
            with torch.random.fork_rng(devices=[inputs.device] if inputs.is_cuda else []):
                _try(model, inputs)
    return _layers(dict(model.named_parameters()))


def _layers(tensors: Mapping[str, Tensor]) -> list[Layer]:
    """Those of a network's parameters that train, as `layer_weights` counts layers."""
    layers = []
    for name, weight in tensors.items():
        if weight.requires_grad and weight.ndim >= 2:
            bias = tensors.get(".".join([*name.split(".")[:-1], "bias"]))
            of_rows = bias is not None and bias.requires_grad and bias.shape == weight.shape[:1]
            layers.append(Layer(name, weight, bias if of_rows else None))
    return layers


def _try(model: nn.Module, inputs: Tensor) -> None:
    """Rescale one layer after another of the network with other weights. Raises `NetworkError` where f changes."""
    tensors, outputs = _drawn(model, inputs)
    generator = torch.Generator().manual_seed(0)
    for layer, following in itertools.pairwise(_layers(tensors)):
        channels = len(layer.weight)
        follows = following.weight[0].numel() % channels == 0
        if follows:
            factors = torch.exp2(20 * torch.rand(channels, generator=generator) - 10)  # shows thresholds and caps too
            with torch.no_grad():
                rescale(layer, following, factors.to(layer.weight.device))
                change = torch.linalg.norm(_outputs(model, tensors, inputs) - outputs)
            follows = bool(change < 1e-4 * torch.linalg.norm(outputs))
        if not follows:
            raise NetworkError(
                f"the channels of {type(model).__name__} cannot be balanced: its output changes where those of "
                f"{layer.name} are multiplied and the weights of {following.name} divided; balancing is for layers "
                f"that follow one another, in the order of definition, through ReLUs and without normalisation: take "
                f"balancing none"
            )


def _drawn(model: nn.Module, inputs: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The model's tensors, all that train drawn anew so that none is zero and hides what it does; and its outputs.

    Drawn until every layer bears on the outputs: narrow ones are often dead.
    """
    generator = torch.Generator().manual_seed(0)
    silent = ""
    for _ in range(_DRAWS):
        tensors = {name: tensor.detach().clone() for name, tensor in model.named_buffers()}
        for name, parameter in model.named_parameters():
            tensors[name] = parameter.detach().clone()
            if parameter.requires_grad:
                spread = math.sqrt(2 / max(parameter[0].numel(), 1)) if parameter.ndim else 1.0
                tensors[name].copy_(spread * torch.randn(parameter.shape, generator=generator))
                tensors[name].requires_grad_()
        layers = _layers(tensors)
        outputs = _outputs(model, tensors, inputs)
        weights = [layer.weight for layer in layers]
        gradients = torch.autograd.grad(outputs.square().sum(), weights, allow_unused=True, materialize_grads=True)
        dead = [layer.name for layer, gradient in zip(layers, gradients, strict=True) if not gradient.any()]
        if not dead:
            return tensors, outputs.detach()
        silent = dead[0]
    raise NetworkError(
        f"the channels of {type(model).__name__} cannot be balanced: its outputs do not depend on {silent}, with "
        f"weights drawn {_DRAWS} times, so that there is no trying it: take balancing none, or wider layers"
    )


def _outputs(model: nn.Module, tensors: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """The same each time, with dropout and running statistics too."""
    torch.manual_seed(0)
    own = {name: tensor if tensor.requires_grad else tensor.clone() for name, tensor in tensors.items()}
    return functional_call(model, own, (inputs,))
