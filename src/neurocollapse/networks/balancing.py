"""Balances weights: rescales channels to the least norm that gives the same function.

A ReLU passes positive factors on, so multiplying a channel's incoming weights by c and dividing its outgoing ones by c
leaves f unchanged. Σ‖W_l‖² is least where every channel's incoming and outgoing norms are equal, as they are at every
critical point of Eq. 1 with λ > 0; along gradient flow the difference of their squares decays as e^{−2λt}.
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

#: After an epoch the weights are not far from balance: three sweeps reach it to a few parts in a thousand.
_SWEEPS = 3

#: How often weights are drawn to test a network, before it counts as one that is always dead.
_DRAWS = 100


@dataclass(frozen=True)
class Layer:
    """A layer with its live weights; each row of them is a channel."""

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
        """The weights that each channel of the layer before enters; after a flattening, several columns each."""
        return self.weight.reshape(len(self.weight), channels, -1)


@torch.no_grad()
def balance(layers: Sequence[Layer], sweeps: int = _SWEEPS) -> None:
    """Rescales the channels of these layers, in place, towards the least Σ‖W_l‖² that gives the same f.

    `layers` are those of `find_layers`. A sweep goes through them and uses c = √(‖outgoing‖/‖incoming‖) for every
    channel, the minimum over that layer's factors: Stock et al. (2019, Equi-normalization). A channel whose incoming or
    outgoing weights are all zero is left alone.
    """
    for _ in range(sweeps):
        for layer, following in itertools.pairwise(layers):
            incoming = layer.incoming
            columns = following.by_input(len(incoming))
            outgoing = torch.linalg.vector_norm(columns, dim=(0, 2), dtype=torch.float64)
            factors = (outgoing / incoming).sqrt()
            rescale(layer, following, torch.where(factors.isfinite() & (factors > 0), factors, 1.0))


def rescale(layer: Layer, following: Layer, factors: Float[Tensor, " channels"]) -> None:
    """Multiplies each channel of a layer by its factor, and divides the weights that it enters in the next layer."""
    factors = factors.to(layer.weight.dtype)
    layer.weight.mul_(factors.view(-1, *[1] * (layer.weight.ndim - 1)))
    if layer.bias is not None:
        layer.bias.mul_(factors)
    columns = following.by_input(len(factors)) / factors[:, None]
    following.weight.copy_(columns.view(following.weight.shape))


def find_layers(model: nn.Module, inputs: Float[Tensor, "samples *shape"]) -> list[Layer]:
    """Returns the trainable layers, in the order of definition.

    Raises `NetworkError` if the layers do not follow one another in such a way that rescaling leaves f unchanged. This
    is tested on `inputs`, two or more, with other weights. The model is left unchanged.
    """
    with modes_kept(model):
        for training in (True, False):  # normalisation shows only in training
            model.train(training)
            with torch.random.fork_rng(devices=[inputs.device] if inputs.is_cuda else []):
                _try(model, inputs)
    return _layers(dict(model.named_parameters()))


def _layers(tensors: Mapping[str, Tensor]) -> list[Layer]:
    """Returns the trainable layers among a network's parameters, as `layer_weights` counts them."""
    layers = []
    for name, weight in tensors.items():
        if weight.requires_grad and weight.ndim >= 2:
            bias = tensors.get(".".join([*name.split(".")[:-1], "bias"]))
            of_rows = bias is not None and bias.requires_grad and bias.shape == weight.shape[:1]
            layers.append(Layer(name, weight, bias if of_rows else None))
    return layers


def _try(model: nn.Module, inputs: Tensor) -> None:
    """Rescales each layer of the network in turn, with other weights. Raises `NetworkError` if f changes."""
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
    """Returns the model's tensors, with the trainable ones drawn at random, and its outputs.

    A tensor of zeros would hide what it does. They are drawn until every layer affects the outputs, since narrow layers
    are often dead.
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
        f"weights drawn {_DRAWS} times, so it cannot be tested: take balancing none, or wider layers"
    )


def _outputs(model: nn.Module, tensors: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """Returns the outputs, which are the same each time, also with dropout and running statistics."""
    torch.manual_seed(0)
    own = {name: tensor if tensor.requires_grad else tensor.clone() for name, tensor in tensors.items()}
    return functional_call(model, own, (inputs,))
