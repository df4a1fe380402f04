"""The package's own classifiers, without biases and normalisation unless asked, and `build_network` for any."""

import itertools
import math
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from .._errors import NetworkError, checks_arguments
from .by_name import has_own_weights
from .heads import possible_classifiers
from .names import BUILT_IN, LEAST_SIZES
from .users_own import call_builder


class _Classifier(nn.Module):
    """Features and the linear classifier of them."""

    features: nn.Sequential
    classifier: nn.Linear

    def forward(self, inputs: Float[Tensor, "samples *shape"]) -> Float[Tensor, "samples classes"]:
        """Returns the outputs f of the classifier."""
        return self.classifier(self.features(inputs))


class ConvNet(_Classifier):
    """The paper's network of five layers: four 3×3 convolutions of stride 2 with ReLU, then the linear classifier.

    Input (samples, channels, height, width); 28×28 and 32×32 images both give p = 1024 features. `linear_tail` puts so
    many square linear layers without ReLU and bias before the classifier.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        *,
        bias: bool = False,
        hidden_bias: bool = False,
        batch_norm: bool = False,
        linear_tail: int = 0,
    ):
        super().__init__()
        _check_sizes(input_shape, num_classes, linear_tail=linear_tail)
        channels, height, width = _image("convnet", input_shape)
        widths = (channels, 32, 64, 128, 256)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [*_convolution(before, after, 2, bias=hidden_bias, batch_norm=batch_norm), nn.ReLU()]
        num_features = widths[-1] * math.ceil(height / 16) * math.ceil(width / 16)
        self.features = nn.Sequential(*layers, nn.Flatten(), *_tail(num_features, linear_tail))
        self.classifier = nn.Linear(num_features, num_classes, bias=bias)


class _Pooled(_Classifier):
    """A network for small images of any size: the mean over all pixels of its last maps, of which there are `width`.

    The first maps are an eighth as many.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        *,
        width: int = 512,
        bias: bool = False,
        hidden_bias: bool = False,
        batch_norm: bool = False,
        linear_tail: int = 0,
    ):
        super().__init__()
        _check_sizes(input_shape, num_classes, width=width, linear_tail=linear_tail)
        name = type(self).__name__.lower()
        channels, *_ = _image(name, input_shape)
        layers = self._maps(channels, _eighth(name, width), bias=hidden_bias, batch_norm=batch_norm)
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *_tail(width, linear_tail))
        self.classifier = nn.Linear(width, num_classes, bias=bias)

    def _maps(self, channels: int, eighth: int, *, bias: bool, batch_norm: bool) -> list[nn.Module]:
        """The layers from the images to the last maps."""
        raise NotImplementedError


class VGG11(_Pooled):
    """VGG-11 for small images: eight 3×3 convolutions with ReLU, five poolings, and one linear layer in place of three.

    The last four convolutions have `width` channels, the first an eighth; p = `width` for images of any size. The
    published one (Simonyan and Zisserman, 2015, configuration A) has 512 and biases.
    """

    def _maps(self, channels: int, eighth: int, *, bias: bool, batch_norm: bool) -> list[nn.Module]:
        before = channels
        layers: list[nn.Module] = []
        for stage in ((1,), (2,), (4, 4), (8, 8), (8, 8)):
            for eighths in stage:
                layers += _convolution(before, eighths * eighth, bias=bias, batch_norm=batch_norm)
                layers.append(nn.ReLU())
                before = eighths * eighth
            layers.append(nn.MaxPool2d(2, ceil_mode=True))  # or nothing would be left of 28×28 pixels
        for layer in layers:
            if isinstance(layer, nn.Conv2d):  # with PyTorch's variance, a third, too little would reach the last layer
                nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5)
        return layers


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions, and a way past them, where a 1×1 convolution changes the shape if need be; then the sum."""

    def __init__(self, before: int, after: int, stride: int, *, bias: bool, batch_norm: bool):
        super().__init__()
        self.residual = nn.Sequential(
            *_convolution(before, after, stride, bias=bias, batch_norm=batch_norm),
            nn.ReLU(),
            *_convolution(after, after, bias=bias, batch_norm=batch_norm),
        )
        reshaped = _convolution(before, after, stride, size=1, bias=bias, batch_norm=batch_norm)
        self.shortcut = nn.Sequential(*(reshaped if stride > 1 or before != after else ()))
        self.relu = nn.ReLU()

    def forward(self, inputs: Float[Tensor, "samples _ _ _"]) -> Float[Tensor, "samples _ _ _"]:
        """Returns the sum after its ReLU."""
        return self.relu(self.residual(inputs) + self.shortcut(inputs))


class ResNet18(_Pooled):
    """ResNet-18 for small images (He et al., 2016): a 3×3 convolution, eight residual blocks, a mean over all pixels.

    The last two blocks have `width` channels, the first an eighth; p = `width`. The published one has 512, batch
    normalisation and a bias of the classifier. Without normalisation and biases f(αx) = αf(x), but f is not homogeneous
    in the weights of a block, which is passed by.
    """

    def _maps(self, channels: int, eighth: int, *, bias: bool, batch_norm: bool) -> list[nn.Module]:
        before = eighth
        layers = [*_convolution(channels, eighth, bias=bias, batch_norm=batch_norm), nn.ReLU()]
        for eighths, stride in ((1, 1), (1, 1), (2, 2), (2, 1), (4, 2), (4, 1), (8, 2), (8, 1)):
            layers.append(ResidualBlock(before, eighths * eighth, stride, bias=bias, batch_norm=batch_norm))
            before = eighths * eighth
        return layers


class MLP(_Classifier):
    """A network of `depth` linear layers, the classifier included, with ReLU between and hidden layers of `width`.

    The last `linear_tail` of the hidden layers have no ReLU and no bias.
    """

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
        linear_tail: int = 0,
    ):
        super().__init__()
        _check_sizes(input_shape, num_classes, depth=depth, width=width, linear_tail=linear_tail)
        if linear_tail >= depth:
            raise NetworkError(
                f"an mlp of depth {depth} has {depth - 1} hidden layers, so linear_tail is at most that; got "
                f"{linear_tail}"
            )
        widths = [math.prod(input_shape)] + [width] * (depth - 1)
        layers: list[nn.Module] = [nn.Flatten()]
        for index, (before, after) in enumerate(itertools.pairwise(widths), start=1):
            is_linear = index >= depth - linear_tail
            try:
                layers.append(nn.Linear(before, after, bias=hidden_bias and not is_linear))
            except RuntimeError as error:  # PyTorch raises it if memory does not suffice
                raise NetworkError(
                    f"a layer of {after}×{before} weights ({4e-9 * after * before:.3g} GB) does not fit in memory "
                    f"beside those before it; choose a smaller width"
                ) from error
            if not is_linear:
                layers += [*_normalization(nn.BatchNorm1d, after, batch_norm), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(width, num_classes, bias=bias)


def _check_sizes(input_shape: tuple[int, ...], num_classes: int, **sizes: int) -> None:
    """Raises `NetworkError` for a size that no network has, which PyTorch would take, or blame on the memory."""
    if not input_shape or min(input_shape) < 1:
        raise NetworkError(f"input_shape must be of one length or more, each at least 1; got {tuple(input_shape)}")
    if num_classes < 2:
        raise NetworkError(f"a classifier needs at least two classes; got {num_classes}")
    for name, size in sizes.items():
        if size < LEAST_SIZES[name]:
            must = "depth counts the classifier too, so it is" if name == "depth" else f"{name} must be"
            raise NetworkError(f"{must} at least {LEAST_SIZES[name]}; got {size}")


def _image(name: str, input_shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(input_shape) != 3:
        raise NetworkError(f"{name} needs images (channels, height, width), got samples of shape {input_shape}")
    return input_shape


def _eighth(name: str, width: int) -> int:
    if width % 8:
        raise NetworkError(
            f"the first layer of {name} has an eighth of the width, so the width is a multiple of 8; got {width}"
        )
    return width // 8


def _convolution(
    before: int, after: int, stride: int = 1, size: int = 3, *, bias: bool, batch_norm: bool
) -> list[nn.Module]:
    """A convolution that keeps the size of its images but for the stride, with normalisation after it if wanted."""
    convolution = nn.Conv2d(before, after, size, stride, padding=size // 2, bias=bias)
    return [convolution, *_normalization(nn.BatchNorm2d, after, batch_norm)]


def _tail(width: int, layers: int) -> list[nn.Module]:
    return [nn.Linear(width, width, bias=False) for _ in range(layers)]


def _normalization(kind: type[nn.Module], width: int, wanted: bool) -> list[nn.Module]:
    return [kind(width)] if wanted else []


@checks_arguments
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
    linear_tail: int = 0,
) -> nn.Module:
    """Builds a network of the package, a model of timm or torchvision, or the user's own network.

    Those of the package are `convnet`, `mlp` (with `depth` and `width`), `resnet18` and `vgg11` (with `width`). Models
    of libraries are named `timm:resnet18` or `torchvision:resnet18`, the user's own `module:function`.

    For the package's, `bias` gives the classifier a bias, `hidden_bias` the other layers, and `batch_norm` puts batch
    normalisation after every convolution and hidden layer; the last two break homogeneity. `linear_tail` hidden layers
    before the classifier have no ReLU and no bias. The user's function returns a module whose last linear layer has
    `num_classes` outputs: see `call_builder`. Raises `NetworkError`.
    """
    _check_sizes(input_shape, num_classes, depth=depth, width=width, linear_tail=linear_tail)
    asked: dict[str, Any] = {"hidden_bias": hidden_bias, "batch_norm": batch_norm, "linear_tail": linear_tail}
    match name:
        case "convnet":
            return ConvNet(input_shape, num_classes, bias=bias, **asked)
        case "mlp":
            return MLP(input_shape, num_classes, depth=depth, width=width, bias=bias, **asked)
        case "resnet18":
            return ResNet18(input_shape, num_classes, width=width, bias=bias, **asked)
        case "vgg11":
            return VGG11(input_shape, num_classes, width=width, bias=bias, **asked)
    if wanted := [_IN_WORDS[field] for field, value in asked.items() if value]:
        raise NetworkError(f"{wanted[0]} can be asked of {', '.join(BUILT_IN)}; build {name} with what it is to have")
    if has_own_weights(name):
        raise NetworkError(
            f"{name} comes with its weights, and a run starts from weights of its own; measure the model, or name one "
            f"without them, such as timm:resnet18"
        )
    network = call_builder(name, input_shape, num_classes)
    possible_classifiers(network, num_classes)
    return network


_IN_WORDS = {
    "hidden_bias": "biases in every layer",
    "batch_norm": "batch normalisation",
    "linear_tail": "a linear tail",
}
