"""The configuration of a training run: it is the command line, the JSON beside the run and, hashed, the run's id."""

import copy
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from .._errors import InputError, InputTypeError, as_plain, check_names
from ..datasets import check_data_name
from ..networks import LEAST_SIZES, check_network_name


class _Usual(str):
    """A default that depends on the network. `replace` keeps it for what it is, and not for a value that was given."""


@dataclass(frozen=True, repr=False)
class RunConfig:
    """The configuration of one training run. On the same machine it always gives the same numbers, bit for bit.

    A data set and a network are looked up when the run starts, not before: a `Dataset` may be given in place of the
    first, and the second may be in another folder. Only a name that can be neither, or is misspelt, is refused now.
    """

    dataset: str = "mnist5k"
    """The data set: mnist5k, mnist, fashion_mnist, kmnist, emnist (or emnist_balanced, emnist_byclass, emnist_bymerge,
    emnist_letters, emnist_digits, emnist_mnist), cifar10, cifar100, svhn, gaussian, or a .npz file with images, labels
    (N,) from 0 to C-1 and, optionally, test_images and test_labels. Images are (N, height, width), (N, height, width,
    channels), (N, channels, height, width), or vectors (N, features). It may also be a folder of images, CLASS/ or
    train/CLASS/ and test/CLASS/; hf:ID, a data set of Hugging Face; or your own as module:function, which returns
    images and labels."""
    per_class: int | None = None
    """Samples of each class to train on; by default all (the theory is for balanced classes)."""
    imbalance: Literal["none", "step", "exponential"] = "none"
    """How unequal the training classes are: step keeps 1/imbalance_ratio of the samples in the last half of the
    classes, exponential keeps the share imbalance_ratio^(-c/(C-1)) of class c."""
    imbalance_ratio: float = 10.0
    """The size of the largest class divided by that of the smallest, with imbalance step or exponential."""
    label_noise: float = 0.0
    """The share of each class's training samples whose labels are shuffled among one another, so that the classes keep
    their sizes. 1 gives random labels. The draw depends on the seed."""
    augmentation: Literal["none", "shift", "shift_flip"] = "none"
    """Random changes of the training images at every step: shift moves them by up to an eighth of their size and fills
    the edge with zeros; shift_flip also mirrors them left to right half of the time."""
    network: str = "convnet"
    """The network: convnet, mlp, resnet18 or vgg11 (both for small images), timm:NAME such as timm:resnet18,
    torchvision:NAME, or your own as module:function, which is called with (input_shape, num_classes)."""
    depth: int = 5
    """Number of layers of the mlp, the classifier included."""
    width: int = 512
    """Number of units in each hidden layer of the mlp, and of channels in the last layers of resnet18 and vgg11, whose
    earlier ones have a half, a quarter and an eighth of it: 512 is the published size."""
    bias: Literal["none", "free", "decayed", "all"] = "none"
    """Which layers have a bias: none, as in the paper; the classifier alone, with a bias that does not decay (free:
    the theorem's equations can then hold exactly) or one that does (decayed); or all, with biases that decay. Your own
    network must have the bias that you ask for."""
    linear_tail: int = 0
    """Number of linear layers without ReLU and bias just before the classifier: of the mlp its last hidden ones, in the
    others square ones that are put in. With one, a critical point with SQI has collapsed."""
    normalization: Literal["none", "batch"] = "none"
    """batch puts batch normalisation after every convolution and hidden layer, which breaks homogeneity. Your own
    network is built with what it is to have."""
    loss: Literal["square", "cross_entropy"] = "square"
    """The data term of the objective. The theory is about the square loss."""
    weight_decay: float = 5e-4
    """λ of Eq. 1. With nn.MSELoss, a weight_decay of w is λ = w·C/2."""
    decay_start: float = 1.0
    """Multiplies λ at the start; the factor then falls geometrically to 1 over the first 60% of the steps. The norms of
    the layers thus relax sooner once the data are fitted."""
    initialization: Literal["default", "kaiming", "norm"] = _Usual("norm")  # type: ignore[assignment]
    """How the weights are drawn: default keeps those that the network is built with, kaiming draws them as He et al.
    did, and norm keeps the directions and gives every layer the Frobenius norm initial_norm. If you do not choose, it
    is norm for convnet and mlp, and default for any other network."""
    initial_norm: float = 4.0
    """The Frobenius norm of every layer at the start, with initialization norm."""
    optimizer: Literal["sgd", "sgdw", "muon", "adam", "adamw"] = "sgd"
    """The optimizer. sgd, muon and adam have coupled decay, so that they end at critical points of Eq. 1. muon
    orthogonalises the steps, which have one length for every layer: it is the fastest way down. adam divides the decay
    of a channel that is momentarily dead by its own size, so that it stays dead: watch the objective. The decay of
    adamw and sgdw, which is SGD beside it, is decoupled, so they end elsewhere, where the theory does not apply."""
    learning_rate: float = 0.1
    """The learning rate at the start. The default suits the convnet and the mlp of the default size; lower it if the
    run diverges."""
    momentum: float = 0.9
    """The momentum of sgd, sgdw and muon, and β₁ of adam and adamw."""
    schedule: Literal["constant", "steps", "cosine", "linear"] = "linear"
    """How the learning rate changes: steps multiplies it by 0.1 at one and at two thirds of the run, cosine and linear
    anneal it to zero."""
    batch_size: int = 32
    """Number of samples in a step."""
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """The precision of matrix products while training: tf32 needs an NVIDIA GPU, bfloat16 a processor that has it.
    Measuring uses float32, and sums in float64."""
    balancing: Literal["none", "epoch"] = "none"
    """epoch rescales the channels after every epoch so that the norms of the layers are the least that give the same
    outputs: weight decay gets there too, but later. This rescales the features as well. It needs layers that follow one
    another through ReLUs."""
    epochs: int = 80
    """Number of passes over the training data; the run is measured twice per doubling of the epoch."""
    until: Literal["epochs", "rest"] = "epochs"
    """When the run ends: after the epochs, or at rest. Until rest it trains in up to three rounds, each with the whole
    schedule, twice as many epochs as the one before and eight times the batch_size, and ends at the first measurement
    at rest: with λ > 0 where ‖∇L‖ is at most a tenth of ‖∇L_data‖ + λ‖W‖ and the ‖W_l‖² differ by at most a tenth; with
    λ = 0 where the square loss is at most 1e-4 (the cross-entropy 1e-3) with no training error."""
    layers: Literal["last", "all"] = "last"
    """What is measured at a recorded epoch: the last layer, on training and test data, or all layers too, on training
    data, which takes one more pass over them."""
    gradient_tolerance: float = 0.0
    """Stops the run at a recorded epoch where ‖∇L‖ is below this."""
    seed: int = 0
    """The seed of the initial weights, the order of the samples and everything else that is random."""

    def __new__(cls, *_: Any, **fields: Any) -> "RunConfig":
        """Raises `InputTypeError` for a field that there is not, which names the nearest."""
        check_names("a run", fields, cls.__dataclass_fields__, "field")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        if isinstance(self.initialization, _Usual):
            object.__setattr__(self, "initialization", _Usual(_STARTS.get(self.network, "default")))
        for name, hint in _HINTS.items():
            object.__setattr__(self, name, _as_hinted(name, getattr(self, name), hint))
        check_network_name(self.network, untrained=True)
        check_data_name(self.dataset)
        for name, lowest in _LOWEST.items():
            if getattr(self, name) is not None and getattr(self, name) < lowest:
                raise InputError(f"{name} must be at least {lowest}, got {getattr(self, name)}")
        for name in _POSITIVE:
            if getattr(self, name) <= 0:
                raise InputError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.momentum < 1:
            raise InputError(f"momentum must be in [0, 1), got {self.momentum}")
        if self.normalization == "batch" and self.batch_size == 1:
            raise InputError("normalization batch needs a batch_size of at least 2, got 1")
        if self.normalization == "batch" and self.balancing != "none":
            raise InputError(
                "balancing epoch needs normalization none, since normalised channels have no scale; got batch"
            )
        for name, bound in _BELOW.items():
            if getattr(self, name) >= bound:
                raise InputError(f"{name} must be below {bound}, got {getattr(self, name)}")
        if self.until == "rest" and self.epochs >= EPOCHS // 8:  # its rounds have 1 + 2 + 4 times as many
            raise InputError(f"epochs must be below {EPOCHS // 8} with until rest, got {self.epochs}")
        for name, highest in _HIGHEST.items():
            if getattr(self, name) > highest:
                raise InputError(f"{name} must be at most {highest}, got {getattr(self, name)}")

    def with_data(self, name: str) -> "RunConfig":
        """Returns this configuration with another name of data, unchecked: those of a run on disk may be elsewhere."""
        config = copy.copy(self)
        object.__setattr__(config, "dataset", name)
        return config

    def __repr__(self) -> str:
        return f"RunConfig({', '.join(f'{name}={value!r}' for name, value in self.changed.items())})"

    @property
    def changed(self) -> dict[str, Any]:
        """The fields that are not at their defaults, which may depend on the network.

        >>> RunConfig(seed=1, network="mlp").changed
        {'network': 'mlp', 'seed': 1}
        """
        usual = RunConfig(network=self.network).initialization
        return self._differing({**vars(RunConfig()), "initialization": usual})

    @classmethod
    def of_version(cls, version: int, **fields: Any) -> "RunConfig":
        """Returns the configuration with these fields, and the others at the defaults of that version.

        An experiment whose numbers are published is written so, and a default that changes does not change it.

        >>> RunConfig.of_version(2, network="mlp").learning_rate
        0.1
        """
        return cls(**{**former_defaults(version), **fields})

    def changed_from(self, version: int) -> dict[str, Any]:
        """Returns the fields that are not at the convnet's defaults of that version."""
        return self._differing(vars(RunConfig.of_version(version)))

    def _differing(self, defaults: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value != defaults[name]}

    @property
    def is_homogeneous(self) -> bool:
        """Whether the network is known to be positively homogeneous in every layer, from its name and parts."""
        return self.network in ("convnet", "mlp", "vgg11") and self.bias != "all" and self.normalization == "none"

    @property
    def decouples(self) -> bool:
        """Whether the weights decay beside the optimizer's step, and not as a part of the gradient."""
        return self.optimizer in ("sgdw", "adamw") and self.weight_decay > 0

    @property
    def idle(self) -> dict[str, str]:
        """The fields that make no difference to this run, each with what they would need.

        >>> RunConfig(imbalance="step", network="mlp", weight_decay=0.0).idle
        {'decay_start': 'a positive weight_decay'}
        """
        return {name: need for name, (need, is_met) in _NEEDS.items() if not is_met(self)}


_HINTS = get_type_hints(RunConfig)

_NEEDS: dict[str, tuple[str, Callable[[RunConfig], bool]]] = {
    "imbalance_ratio": ("imbalance step or exponential", lambda config: config.imbalance != "none"),
    "depth": ("network mlp", lambda config: config.network == "mlp"),
    "width": ("network mlp, resnet18 or vgg11", lambda config: config.network in ("mlp", "resnet18", "vgg11")),
    "initial_norm": ("initialization norm", lambda config: config.initialization == "norm"),
    "decay_start": ("a positive weight_decay", lambda config: config.weight_decay > 0),
}

#: The initialization of the networks that do not start as they are built.
_STARTS = {"convnet": "norm", "mlp": "norm"}

#: It changes when the same fields would give a different run: new defaults, another order of random numbers.
DEFAULTS_VERSION = 2

#: For each earlier version, the defaults that the next one changed, as they were before.
FORMER_DEFAULTS: dict[int, dict[str, Any]] = {}


def former_defaults(version: int) -> dict[str, Any]:
    """Returns the fields whose defaults were others in that version, at the defaults that they had."""
    former: dict[str, Any] = {}
    for each in sorted(FORMER_DEFAULTS, reverse=True):
        former |= FORMER_DEFAULTS[each] if each >= version else {}
    return former


#: The fields grouped by subject, as forms show them. Fields that few people change come last.
GROUPS = {
    "data": ("dataset", "per_class"),
    "network": ("network", "depth", "width", "bias"),
    "objective": ("loss", "weight_decay"),
    "optimiser": ("optimizer", "learning_rate", "momentum", "schedule", "batch_size"),
    "length": ("epochs", "until", "seed"),
    "seldom_changed": (
        "imbalance",
        "imbalance_ratio",
        "label_noise",
        "augmentation",
        "linear_tail",
        "normalization",
        "initialization",
        "initial_norm",
        "decay_start",
        "precision",
        "balancing",
        "layers",
        "gradient_tolerance",
    ),
}


def _as_hinted(name: str, value: Any, hint: Any) -> Any:
    """Returns the value as Python's own int, float or str, since the run's id and its JSON are made from it."""
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise InputError(f"{name} must be {' or '.join(get_args(hint))}, got {value!r}")
        return value
    if value is None and type(None) in get_args(hint):
        return None
    kind, value = (*get_args(hint), hint)[0], as_plain(value)
    expected, convert = _KINDS[kind]
    try:
        if isinstance(value, bool) or isinstance(value, str) != (kind is str):
            raise TypeError  # float() would read a string, and to Python True is 1
        converted = convert(value)
    except (TypeError, ValueError):
        raise InputTypeError(f"{name} must be {expected}, got {value!r} of type {type(value).__name__}") from None
    except OverflowError:  # an integer beyond any float
        converted = math.inf
    if kind is float and not math.isfinite(converted):
        raise InputError(f"{name} must be finite, got {value}")
    return converted


_KINDS: dict[type, tuple[str, Callable[[Any], Any]]] = {
    int: ("an integer", operator.index),
    float: ("a number", float),
    str: ("a string", str),
}
_LOWEST = {
    "per_class": 1,
    "imbalance_ratio": 1,
    "label_noise": 0,
    **LEAST_SIZES,
    "weight_decay": 0,
    "batch_size": 1,
    "epochs": 0,
    "gradient_tolerance": 0,
    "seed": 0,
}
_POSITIVE = ("initial_norm", "learning_rate", "decay_start")

#: seed · EPOCHS + epoch seeds PyTorch's generator. Below these bounds it fits into 64 bits and never repeats.
EPOCHS = 2**20
_BELOW = {"epochs": EPOCHS, "seed": 2**43}

#: These are far beyond what is useful, and below what Python and PyTorch cannot count.
_HIGHEST = {
    "label_noise": 1,
    "decay_start": 1_000_000,
    "depth": 1000,
    "width": 1_000_000,
    "linear_tail": 1000,
    "batch_size": 1_000_000_000,
    **dict.fromkeys(("weight_decay", "learning_rate", "initial_norm"), 1e30),  # the weights are float32
}
