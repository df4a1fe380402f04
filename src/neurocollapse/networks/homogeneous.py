"""Classifiers without biases or normalisation, so that f is positively homogeneous of degree one in every layer."""

import importlib
import inspect
import itertools
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .._errors import NetworkError


class ConvNet(nn.Module):
    """The paper's five layers: four 3×3 convolutions of stride 2, each with ReLU, then the linear classifier.

    Input (samples, channels, height, width); 28×28 and 32×32 images both give p = 1024 features.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        *,
        bias: bool = False,
        hidden_bias: bool = False,
        batch_norm: bool = False,
    ):
        super().__init__()
        if len(input_shape) != 3:
            raise NetworkError(f"convnet needs images (channels, height, width), got samples of shape {input_shape}")
        channels, height, width = input_shape
        widths = (channels, 32, 64, 128, 256)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers.append(nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1, bias=hidden_bias))
            layers += [*_normalization(nn.BatchNorm2d, after, batch_norm), nn.ReLU()]
        self.features = nn.Sequential(*layers, nn.Flatten())
        num_features = widths[-1] * math.ceil(height / 16) * math.ceil(width / 16)
        self.classifier = nn.Linear(num_features, num_classes, bias=bias)

    def forward(self, images: Float[Tensor, "samples channels height width"]) -> Float[Tensor, "samples classes"]:
        return self.classifier(self.features(images))


class MLP(nn.Module):
    """`depth` linear layers, the classifier included, with ReLU between; hidden layers of `width` units."""

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        *,
        depth: int,
        width: int,
        bias: bool = False,
        hidden_bias: bool = False,
        batch_norm: bool = False,
    ):
        super().__init__()
        if depth < 2:
            raise NetworkError(f"depth counts the classifier too, so it is at least 2; got {depth}")
        widths = [math.prod(input_shape)] + [width] * (depth - 1)
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in itertools.pairwise(widths):
            try:
                layers.append(nn.Linear(before, after, bias=hidden_bias))
            except RuntimeError as error:  # what PyTorch raises for want of memory
                raise NetworkError(
                    f"a layer of {after}×{before} weights ({4e-9 * after * before:.3g} GB) does not fit in memory "
                    f"beside those before it; choose a smaller width"
                ) from error
            layers += [*_normalization(nn.BatchNorm1d, after, batch_norm), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(width, num_classes, bias=bias)

    def forward(self, inputs: Float[Tensor, "samples *shape"]) -> Float[Tensor, "samples classes"]:
        return self.classifier(self.features(inputs))


def _normalization(kind: type[nn.Module], width: int, wanted: bool) -> list[nn.Module]:
    return [kind(width)] if wanted else []


def build_network(
    name: str,
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    depth: int = 5,
    width: int = 512,
    bias: bool = False,
    hidden_bias: bool = False,
    batch_norm: bool = False,
) -> nn.Module:
    """`convnet`, `mlp` (of `depth` and `width`), or the user's own as `module:function`.

    Of the first two, `bias` gives the classifier a bias, `hidden_bias` the other layers, and `batch_norm` puts batch
    normalisation before every ReLU; the last two break homogeneity. The user's function returns a module whose last
    linear layer has `num_classes` outputs: see `call_builder`. Raises `NetworkError`.
    """
    if name == "convnet":
        return ConvNet(input_shape, num_classes, bias=bias, hidden_bias=hidden_bias, batch_norm=batch_norm)
    if name == "mlp":
        layers = {"depth": depth, "width": width}
        return MLP(input_shape, num_classes, **layers, bias=bias, hidden_bias=hidden_bias, batch_norm=batch_norm)
    if hidden_bias or batch_norm:
        asked = "biases in every layer" if hidden_bias else "batch normalisation"
        raise NetworkError(f"{asked} can be asked of convnet and mlp; build {name} with what it is to have")
    network = call_builder(name, input_shape, num_classes)
    find_classifier(network, num_classes)
    return network


def call_builder(name: str, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """What the user's `module:function` returns, whatever its head. Raises `NetworkError`.

    It is called as function(input_shape, num_classes), or without arguments where it takes none.
    """
    if ":" not in name:
        raise NetworkError(f"there is no network {name!r}; choose convnet, mlp, or your own as module:function")
    function = _load_function(name)
    arguments = (input_shape, num_classes) if _takes_two(function) else ()
    try:
        network = function(*arguments)
    except (Exception, SystemExit) as error:
        called = ", ".join(map(str, arguments))
        raise NetworkError(
            f"{name} raised {type(error).__name__}: {error}; it is called as function({called})"
        ) from error
    if not isinstance(network, nn.Module):
        raise NetworkError(f"{name} returned {type(network).__name__}; it must return a torch.nn.Module")
    return network


def _takes_two(function: Callable[..., object]) -> bool:
    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError):  # it needs arguments, or does not tell
        return True
    try:
        inspect.signature(function).bind((), 0)
    except TypeError:
        return False
    return True


def _load_function(name: str) -> Callable[..., object]:
    module_name, _, function_name = name.partition(":")
    if str(Path.cwd()) not in sys.path:  # as `python -m` does: the user's module lies where the command is typed
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # the user's module may raise anything
        raise NetworkError(
            f"cannot import {module_name!r} for network {name!r} ({type(error).__name__}: {error}); "
            f"run from its folder, install it, or mend it"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise NetworkError(f"module {module_name!r} has no function {function_name!r}, asked for by network {name!r}")
    return function


def find_classifier(model: nn.Module, num_classes: int | None = None) -> nn.Linear:
    """The last `nn.Linear` in the order of definition; it must have `num_classes` outputs, where they are given."""
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linears:
        raise NetworkError(f"{type(model).__name__} has no nn.Linear layer, so it has no classifier; end it with one")
    if num_classes is not None and linears[-1].out_features != num_classes:
        raise NetworkError(
            f"the last linear layer of {type(model).__name__} has {linears[-1].out_features} outputs, "
            f"but the data has {num_classes} classes"
        )
    return linears[-1]


def decays(model: nn.Module, classifier: nn.Linear, weight_decay: float, bias: str) -> dict[str, float]:
    """The decay of every parameter that trains: λ, but 0 for the classifier's bias where `bias` is "free".

    Raises `NetworkError` where the classifier has no bias to be "free" or "decayed".
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    own = next((name for name, p in trained.items() if p is classifier.bias), None)
    if own is None and bias in ("free", "decayed"):
        raise NetworkError(
            f"the last linear layer of {type(model).__name__}, {classifier}, has no bias that trains, so none can "
            f"be {'free of decay' if bias == 'free' else 'decayed'}; give it one, or ask for no bias"
        )
    return {name: 0.0 if bias == "free" and name == own else weight_decay for name in trained}


@contextmanager
def captured_features(classifier: nn.Linear) -> Iterator[list[Tensor]]:
    """Within the context, every forward pass appends the classifier's input, (samples, features), to the list."""
    captured: list[Tensor] = []
    handle = classifier.register_forward_pre_hook(lambda _, inputs: captured.append(inputs[0].detach()))
    try:
        yield captured
    finally:
        handle.remove()


def check_head(outputs: object, captured: list[Tensor], classifier: nn.Linear) -> None:
    """`NetworkError` unless `outputs` are what the classifier made of the last of its captured inputs.

    Metrics and theory read f = W h + b off the last linear layer, so that must be what the network returns.
    """
    if not isinstance(outputs, Tensor):
        raise NetworkError(
            f"the network returns a {type(outputs).__name__}; return the classifier's output alone, a tensor "
            f"(samples, classes)"
        )
    if not captured:
        raise NetworkError(f"the network does not call its last linear layer, {classifier}; define the classifier last")
    with torch.no_grad():
        head = nn.functional.linear(captured[-1], classifier.weight, classifier.bias)
    if outputs.shape != head.shape or (outputs - head).abs().max() > 1e-3 * head.abs().max():
        raise NetworkError(
            f"the network's output is not that of its last linear layer, {classifier}; "
            f"return the classifier's output as it is"
        )


def initialize(model: nn.Module, initialization: str, norm: float) -> None:
    """Draw the weights anew, in place, from torch's global generator.

    `default` keeps PyTorch's; `kaiming` is He et al. (2015), normal with variance 2/fan_in; `norm` keeps the
    direction of PyTorch's and gives every weight tensor the Frobenius norm `norm`. Raises `NetworkError` where there
    is no direction, in a layer of zeros.
    """
    for name, weight in layer_weights(model).items():
        with torch.no_grad():
            if initialization == "kaiming":
                nn.init.kaiming_normal_(weight, nonlinearity="relu")
            elif initialization == "norm":
                if not weight.any():
                    raise NetworkError(
                        f"{name} of {type(model).__name__} starts at zero, so it has no direction to keep at norm "
                        f"{norm:g}; choose the initialization default or kaiming, or start it elsewhere"
                    )
                weight.mul_(norm / torch.linalg.norm(weight))


def layer_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable tensors of two or more dimensions, one per layer, in the order of definition."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad and p.ndim >= 2}


@dataclass(frozen=True)
class Homogeneity:
    """Relative deviations ‖f(scaled) − αf‖/‖αf‖, largest over the scales tried: by input and by layer."""

    by_input: float
    by_layer: dict[str, float]

    def holds(self, tolerance: float = 1e-4) -> bool:
        """Whether every deviation is within `tolerance`; float32 rounding alone makes about 1e-6."""
        return all(deviation <= tolerance for deviation in (self.by_input, *self.by_layer.values()))


@torch.no_grad()
def check_homogeneous(
    model: nn.Module, inputs: Float[Tensor, "samples *shape"], scales: tuple[float, ...] = (0.5, 2.0, 3.0)
) -> Homogeneity:
    """Measure whether f(αx) = αf(x), and whether scaling one layer W_l by α scales f by α, for positive α.

    The model is left as it was found. A positive answer is evidence on these inputs, not a proof; where the outputs
    are all zero there is none, and the deviations are nan.
    """
    found = [(tensor, tensor.clone()) for tensor in (*model.parameters(), *model.buffers())]

    def deviation(scaled: Tensor, alpha: float) -> float:
        return (torch.linalg.norm(scaled - alpha * outputs) / torch.linalg.norm(alpha * outputs)).item()

    def largest(deviations: Iterator[float]) -> float:
        return max(deviations, key=lambda value: (math.isnan(value), value))

    def scaled_layer(weight: Tensor, alpha: float) -> Tensor:
        original = weight.clone()
        weight.mul_(alpha)
        scaled = model(inputs)
        weight.copy_(original)
        return scaled

    try:
        outputs = model(inputs)
        by_input = largest(deviation(model(alpha * inputs), alpha) for alpha in scales)
        by_layer = {
            name: largest(deviation(scaled_layer(weight, alpha), alpha) for alpha in scales)
            for name, weight in layer_weights(model).items()
        }
    finally:  # on an error too, and with the running statistics of normalisation layers
        for tensor, value in found:
            tensor.copy_(value)
    return Homogeneity(by_input, by_layer)
