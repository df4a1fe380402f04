"""Training to collapse: gradient descent on Eq. 1, measured as it goes. Knows nothing of disks.

    L(W) = (1/2N) Σ_i ‖f_i − y_i‖² + (λ/2) Σ_k ‖W_k‖_F²

PyTorch's optimisers add λW to the gradient of the data term, which is exactly ∇L; every trainable tensor decays.
"""

import math
import operator
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .datasets import Dataset, Split, load_dataset
from .full_batch import square_loss
from .measuring import gather, objective_of
from .metrics import Measurement
from .networks import NetworkError, build_network, captured_features, check_head, decays, find_classifier, initialize
from .statistics import FULL_COVARIANCE_LIMIT


@dataclass(frozen=True)
class RunConfig:
    """One training run. The same configuration on the same machine gives the same numbers, bit for bit."""

    dataset: str = "mnist5k"
    """mnist5k, mnist, cifar10, gaussian, or a .npz file with images, labels (N,) from 0 to C-1 and, optionally,
    test_images and test_labels. Images are (N, height, width), (N, height, width, channels), (N, channels, height,
    width), or vectors (N, features)."""
    per_class: int | None = None
    """Train on this many samples of each class (the theory is for balanced classes)."""
    network: str = "convnet"
    """convnet, mlp, or your own as module:function, called with (input_shape, num_classes)."""
    depth: int = 5
    """Layers of the mlp, the classifier included."""
    width: int = 512
    """Units in a hidden layer of the mlp."""
    bias: Literal["none", "free"] = "none"
    """Of the classifier: none, as in the paper, or free, one that does not decay, with which the theorem's equations
    can hold exactly. Your own network must have the bias that is to be free."""
    weight_decay: float = 5e-4
    """λ of Eq. 1. With nn.MSELoss, a weight_decay of w is λ = w·C/2."""
    initialization: Literal["default", "kaiming", "norm"] = "norm"
    """PyTorch's, Kaiming's, or PyTorch's directions with a fixed Frobenius norm in every layer."""
    initial_norm: float = 4.0
    """That Frobenius norm."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """Both with coupled decay, so that their end points are critical points of Eq. 1. Adam divides the decay of a
    channel that is momentarily dead by its own size, so that it stays dead: watch the objective."""
    learning_rate: float = 0.1
    """At the start. The default suits the convnet and the mlp of the default size; where it diverges, take less."""
    momentum: float = 0.9
    """Of sgd; adam's first moment uses it too."""
    schedule: Literal["constant", "steps", "cosine", "linear"] = "linear"
    """Of the learning rate: steps is ×0.1 at one and two thirds, cosine and linear anneal to zero."""
    batch_size: int = 32
    """Samples in a step."""
    epochs: int = 80
    """Passes over the training data; the run is measured at two epochs to an octave."""
    gradient_tolerance: float = 0.0
    """Stop at a recorded epoch where ‖∇L‖ is below this."""
    seed: int = 0
    """Of the first weights and the order of the samples."""

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(RunConfig).items():
            object.__setattr__(self, name, _as_hinted(name, getattr(self, name), hint))
        for name, lowest in _LOWEST.items():
            if getattr(self, name) is not None and getattr(self, name) < lowest:
                raise ValueError(f"{name} must be at least {lowest}, got {getattr(self, name)}")
        for name in _POSITIVE:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {self.momentum}")
        for name, bound in _BELOW.items():
            if getattr(self, name) >= bound:
                raise ValueError(f"{name} must be below {bound}, got {getattr(self, name)}")
        for name, highest in _HIGHEST.items():
            if getattr(self, name) > highest:
                raise ValueError(f"{name} must be at most {highest}, got {getattr(self, name)}")


def _as_hinted(name: str, value: Any, hint: Any) -> Any:
    """The value as Python's own int, float or str, which the run's id and its JSON are made of."""
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ValueError(f"{name} must be {' or '.join(get_args(hint))}, got {value!r}")
        return value
    if value is None and type(None) in get_args(hint):
        return None
    kind = (*get_args(hint), hint)[0]
    expected, convert = _KINDS[kind]
    try:
        if isinstance(value, bool) or isinstance(value, str) != (kind is str):
            raise TypeError  # float() would read a string, and to Python True is 1
        converted = convert(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be {expected}, got {value!r} of type {type(value).__name__}") from None
    except OverflowError:  # an integer beyond any float
        converted = math.inf
    if kind is float and not math.isfinite(converted):
        raise ValueError(f"{name} must be finite, got {value}")
    return converted


_KINDS: dict[type, tuple[str, Callable[[Any], Any]]] = {
    int: ("an integer", operator.index),
    float: ("a number", float),
    str: ("a string", str),
}
_LOWEST = {
    "per_class": 1,
    "depth": 2,
    "width": 1,
    "weight_decay": 0,
    "batch_size": 1,
    "epochs": 0,
    "gradient_tolerance": 0,
    "seed": 0,
}
_POSITIVE = ("initial_norm", "learning_rate")

#: Epochs that a seed has random numbers for, and seeds that fit beside them in 64 bits.
_EPOCHS = 2**20
_BELOW = {"epochs": _EPOCHS, "seed": 2**43}

#: Far beyond what is of use, and before what Python and PyTorch cannot count.
_HIGHEST = {"depth": 1000, "width": 1_000_000, "batch_size": 1_000_000_000}

#: Samples in one forward pass while measuring.
_CHUNK = 1000


class DivergedError(RuntimeError):
    """The objective became infinite or NaN."""


Record = dict[str, Any]


@dataclass(frozen=True)
class State:
    """The run after `epoch` epochs; `record` is None at epochs that are not measured."""

    epoch: int
    objective: float
    """Data term, averaged over the mini-batches, each at the weights of its step, plus the decay term at the weights of
    the epoch's end; nan at epoch 0."""
    record: Record | None
    seconds: dict[str, float]
    tensors: dict[str, Tensor]
    """Weights (`model.*`) and optimiser state (`optimizer.*`), the live ones: copy what is to be kept."""
    finished: bool


def recorded_epochs(epochs: int) -> tuple[int, ...]:
    """The epochs at which a run is measured: 0, then two to an octave, and the last.

    >>> recorded_epochs(20)
    (0, 1, 2, 3, 4, 6, 8, 11, 16, 20)
    """
    octaves = range(2 * max(epochs, 1).bit_length())
    return tuple(sorted({0, epochs} | {round(2 ** (k / 2)) for k in octaves if 2 ** (k / 2) <= epochs}))


def learning_rate(config: RunConfig, progress: float) -> float:
    """The learning rate after the share `progress` of all steps."""
    match config.schedule:
        case "steps":
            factor = 0.1 ** min(int(3 * progress), 2)
        case "cosine":
            factor = (1 + math.cos(math.pi * progress)) / 2
        case "linear":
            factor = 1 - progress
        case _:
            factor = 1.0
    return config.learning_rate * factor


def train(
    config: RunConfig,
    dataset: Dataset | None = None,
    *,
    resume: tuple[Mapping[str, Tensor], Record] | None = None,
    device: str = "cpu",
) -> Iterator[State]:
    """Train by `config` and yield the `State` after every epoch, epoch 0 (before training) included.

    `resume` is the tensors of an earlier state and the last record before or at it; the run goes on as if it had
    never stopped. Random numbers are a function of (seed, epoch) alone.

    Raises `DivergedError` when the objective is no longer finite, and `NetworkError`, `DatasetError`; all of it, as
    the training itself, when the first state is asked for.

    >>> config = RunConfig(dataset="gaussian", network="mlp", depth=2, width=8, epochs=10, learning_rate=0.01)
    >>> [round(state.record["train.accuracy"], 1) for state in train(config) if state.record][-1]
    1.0
    """
    if not isinstance(config, RunConfig):
        raise TypeError(f"train takes a RunConfig, got {config!r} of type {type(config).__name__}")
    dataset = load_dataset(config.dataset, per_class=config.per_class) if dataset is None else dataset
    run = _Run(config, dataset, device)
    first, phase_start = 0, None
    if resume is not None:
        tensors, last = resume
        first = run.load(tensors) + 1
        phase_start = last["terminal_phase_start"]
    recorded = recorded_epochs(config.epochs)
    for epoch in range(first, config.epochs + 1):
        start = time.perf_counter()
        objective = run.epoch(epoch) if epoch else math.nan
        trained = time.perf_counter()
        record: Record | None = None
        finished = epoch == config.epochs
        if epoch in recorded:
            record = run.measure(epoch)
            phase_start = _terminal_phase_start(record, phase_start)
            record["terminal_phase_start"] = phase_start
            finished |= record["gradient_norm"] < config.gradient_tolerance
        seconds = {"train": trained - start, "measure": time.perf_counter() - trained}
        yield State(epoch, objective, record, seconds, run.tensors(epoch), finished)
        if finished:
            return


def _terminal_phase_start(record: Record, before: int | None) -> int | None:
    if record["train.accuracy"] < 1:
        return None
    return record["epoch"] if before is None else before


def network_of(config: RunConfig, dataset: Dataset) -> nn.Module:
    """The network that a configuration trains, as PyTorch starts it. Raises `NetworkError`."""
    size = {"depth": config.depth, "width": config.width}
    return build_network(config.network, dataset.input_shape, dataset.num_classes, **size, bias=config.bias != "none")


def flow_time(config: RunConfig, epoch: int, samples: int) -> float:
    """The time that gradient flow takes for what SGD does until `epoch`: Σ η/(1 − momentum) over the steps."""
    steps = -(-samples // config.batch_size)
    rates = (learning_rate(config, step / (steps * config.epochs)) for step in range(steps * epoch))
    return math.fsum(rates) / (1 - config.momentum)


@contextmanager
def seeded(seed: int, epoch: int, device: str = "cpu") -> Iterator[None]:
    """Random numbers that depend on (seed, epoch) alone; the caller's generators are left as they were."""
    with torch.random.fork_rng(devices=[torch.device(device)] if device.startswith("cuda") else []):
        torch.manual_seed(seed * _EPOCHS + epoch)
        yield


class _Run:
    """A network, its optimiser and its data on one device."""

    def __init__(self, config: RunConfig, dataset: Dataset, device: str):
        self.config = config
        self.train_split = _to(dataset.train, device)
        self.test_split = None
        # A class without test samples has no test mean, so there is nothing to measure there (`notes` says so).
        if dataset.test is not None and len(dataset.test.labels.unique()) == dataset.num_classes:
            self.test_split = _to(dataset.test, device)
        self.device = device
        with seeded(config.seed, 0, device):
            self.model = network_of(config, dataset)
            initialize(self.model, config.initialization, config.initial_norm)
        self.model.to(device)
        self.classifier = find_classifier(self.model, dataset.num_classes)
        self.parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        if not self.parameters:
            raise NetworkError(
                f"all parameters of {type(self.model).__name__} are frozen, so there is nothing to train; leave some "
                f"with requires_grad"
            )
        self.decays = decays(self.model, self.classifier, config.weight_decay, config.bias)
        self.free = frozenset(name for name, decay in self.decays.items() if decay != config.weight_decay)
        self.optimizer = _optimizer(config, self._parameter_groups())

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """What decays, and what does not, each in the network's order."""
        groups: dict[float, list[nn.Parameter]] = {}
        for name, p in self.parameters.items():
            groups.setdefault(self.decays[name], []).append(p)
        return [{"params": parameters, "weight_decay": decay} for decay, parameters in groups.items()]

    def epoch(self, epoch: int) -> float:
        """One pass over the data in a random order; the mean objective along it."""
        labels = self.train_split.labels
        with seeded(self.config.seed, epoch, self.device):
            order = torch.randperm(len(labels)).to(labels.device)
            batches = order.split(self.config.batch_size)
            self.model.train()
            total = torch.zeros((), device=labels.device)
            for index, batch in enumerate(batches):
                progress = (epoch - 1 + index / len(batches)) / self.config.epochs
                for group in self.optimizer.param_groups:
                    group["lr"] = learning_rate(self.config, progress)
                total += self._step(batch)
        mean = total.item() / len(labels)
        decay = objective_of(self.model, self.config.weight_decay, self.free).penalty
        if not math.isfinite(mean + decay):
            raise DivergedError(
                f"the objective became {mean + decay} in epoch {epoch} (λ = {self.config.weight_decay:g}, "
                f"learning rate {self.config.learning_rate:g}); try a smaller learning rate"
            )
        return mean + decay

    def _step(self, batch: Int[Tensor, " samples"]) -> Float[Tensor, ""]:
        loss = square_loss(self.model(self.train_split.images[batch]), self.train_split.labels[batch])
        self.optimizer.zero_grad()
        (loss / len(batch)).backward()
        self.optimizer.step()
        return loss.detach()

    def measure(self, epoch: int) -> Record:
        """All metrics on train and test data, and the norm of the full gradient, from one pass over each."""
        was_training = self.model.training
        self.model.eval()
        train_values = self._measure_split(self.train_split, with_gradient=True)
        gradient_norm = self._gradient_norm()
        record: Record = {
            "epoch": epoch,
            "learning_rate": learning_rate(self.config, epoch / max(self.config.epochs, 1)),
            "gradient_norm": gradient_norm,
            **{f"train.{key}": value for key, value in train_values.items()},
        }
        if self.test_split is not None:
            test_values = self._measure_split(self.test_split, with_gradient=False)
            record |= {f"test.{key}": value for key, value in test_values.items()}
        self.model.train(was_training)
        return record

    def _measure_split(self, split: Split, *, with_gradient: bool) -> dict[str, Any]:
        self.optimizer.zero_grad()
        with captured_features(self.classifier) as captured, torch.set_grad_enabled(with_gradient):
            for images, labels in zip(split.images.split(_CHUNK), split.labels.split(_CHUNK), strict=True):
                outputs = self.model(images)
                check_head(outputs, captured, self.classifier)
                if with_gradient:
                    (square_loss(outputs, labels) / len(split.labels)).backward()
        features = torch.cat(captured)
        if not features.isfinite().all():
            raise DivergedError("the network's features are no longer finite; try a smaller learning rate")
        objective = objective_of(self.model, self.config.weight_decay, self.free)
        vci = features.shape[1] <= FULL_COVARIANCE_LIMIT  # a run records every key, at whatever number of samples
        head = self.classifier
        statistics, _ = gather(features, split.labels, head.weight, head.bias, vci=vci, objective=objective)
        return Measurement(statistics).to_dict()

    def _gradient_norm(self) -> float:
        squares = 0.0
        for name, p in self.parameters.items():
            if p.grad is None:
                raise NetworkError(
                    f"{name} of {type(self.model).__name__} does not enter the loss; remove it, or freeze it with "
                    f"requires_grad_(False)"
                )
            gradient = p.grad.double() + self.decays[name] * p.detach().double()
            squares += gradient.square().sum().item()
        self.optimizer.zero_grad()
        return math.sqrt(squares)

    def tensors(self, epoch: int) -> dict[str, Tensor]:
        """Everything that the rest of the run depends on."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
        return tensors | {"epoch": torch.tensor(epoch)}

    def load(self, tensors: Mapping[str, Tensor]) -> int:
        """Go on from `tensors`; the epoch they were taken at."""
        model = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
        self.model.load_state_dict(model)
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".", 2)
                state.setdefault(int(index), {})[key] = value.clone()
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})
        return int(tensors["epoch"])


def _to(split: Split, device: str) -> Split:
    return Split(split.images.to(device), split.labels.to(device))


def _optimizer(config: RunConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, config.learning_rate, momentum=config.momentum)
    return torch.optim.Adam(groups, config.learning_rate, betas=(config.momentum, 0.999))
