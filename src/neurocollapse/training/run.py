"""A run in memory: its network, its optimiser's state and its data on one device."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from .._errors import CheckpointError, NetworkError
from ..datasets import Dataset, Split
from ..measuring import gather, measure_layers, objective_of
from ..metrics import Measurement
from ..networks import (
    Layer,
    balance,
    build_network,
    captured_features,
    check_head,
    decays,
    evaluation,
    find_classifier,
    find_layers,
    initialize,
)
from ..statistics import FULL_COVARIANCE_LIMIT, Statistics
from .augmentation import Augmentation, draw_augmentation
from .config import EPOCHS, RunConfig
from .divergence import check_features, check_objective, highest_objective
from .losses import LOSSES
from .precision import products_in
from .schedule import Record, batches, last_epoch, learning_rate_at, paces, rounds
from .snapshot import shown_samples, snapshot
from .step import Pace, Weights, fresh_moments

#: Samples in one forward pass while measuring.
_CHUNK = 1000

#: What a record has of each layer, if it is there.
LAYER_KEYS = (
    *("nc1", "nc1_trace_ratio", "nc1_cdnv", "nearest_mean_error", "weight_stable_rank", "weight_share_simplex"),
    *("weight_share_frame", "weight_alignment_simplex", "weight_alignment_frame"),
)

#: Images used to find the classifier, and the channels of a network that is balanced.
_TRIED = 16


def network_of(config: RunConfig, dataset: Dataset) -> nn.Module:
    """Builds the network that a configuration trains, with PyTorch's initialisation. Raises `NetworkError`."""
    return builder_of(config)(config.network, dataset.input_shape, dataset.num_classes)


def builder_of(config: RunConfig) -> Callable[[str, tuple[int, ...], int], nn.Module]:
    """Returns `build_network` with the parts of a network that the configuration names."""
    return partial(
        build_network,
        depth=config.depth,
        width=config.width,
        bias=config.bias != "none",
        hidden_bias=config.bias == "all",
        batch_norm=config.normalization == "batch",
        linear_tail=config.linear_tail,
    )


@contextmanager
def seeded(seed: int, epoch: int, device: str = "cpu") -> Iterator[None]:
    """Makes random numbers within the block depend on (seed, epoch) alone; the caller's generators do not change."""
    with torch.random.fork_rng(devices=[torch.device(device)] if device.startswith("cuda") else []):
        torch.manual_seed(seed * EPOCHS + epoch)
        yield


def first_network(config: RunConfig, dataset: Dataset, device: str = "cpu") -> nn.Module:
    """Builds the network with the weights that a run starts from. Raises `NetworkError`."""
    with seeded(config.seed, 0, device):
        model = network_of(config, dataset)
        initialize(model, config.initialization, config.initial_norm)
    return model


@dataclass(frozen=True)
class Draw:
    """The random part of one epoch: the order of the samples and the augmentation of their images.

    For R stacked runs the tensors are (R, samples, ...).
    """

    order: Int[Tensor, "*runs samples"]
    augmentation: Augmentation | None

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors that an epoch draws."""
        return [self.order, *(self.augmentation.tensors if self.augmentation else [])]


def on_device(dataset: Dataset, device: str) -> Dataset:
    """Copies the samples of a data set to a device."""
    return replace(dataset, train=dataset.train.to(device), test=dataset.test and dataset.test.to(device))


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"


class Run:
    """The network of one configuration in training. Raises `NetworkError` if it cannot be trained."""

    def __init__(self, config: RunConfig, dataset: Dataset, device: str):
        self.config, self.device = config, device
        self.model = first_network(config, dataset, device).to(device)
        self.train_split = dataset.train.to(device)
        self.classifier = find_classifier(self.model, self.train_split.images_at(slice(_TRIED)), dataset.num_classes)
        self.weights: Weights = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        if not self.weights:
            raise NetworkError(
                f"all parameters of {type(self.model).__name__} are frozen, so there is nothing to train; leave some "
                f"with requires_grad"
            )
        self.decays = decays(self.model, self.classifier, config.weight_decay, config.bias)
        self.free = frozenset(name for name, decay in self.decays.items() if decay != config.weight_decay)
        self.dtype = next(iter(self.weights.values())).dtype
        self.moments = fresh_moments(config.optimizer, self.weights)
        self.loss = LOSSES[config.loss]
        self.highest = math.inf  # until epoch 0 is measured
        self._balanced: list[Layer] = []
        if config.balancing == "epoch":
            self._balanced = find_layers(self.model, self.train_split.images_at(slice(_TRIED)))
        self.shown = shown_samples(self.train_split.labels)
        self.test_split = None
        # A class without test samples has no test mean, so nothing is measured on the test data (`notes` says so).
        if dataset.test is not None and len(dataset.test.labels.unique()) == dataset.num_classes:
            self.test_split = dataset.test.to(device)

    # For an epoch of training

    def tensor(self, values: float | Sequence[float]) -> Tensor:
        """A tensor of numbers, in the type and on the device of the weights."""
        return torch.tensor(values, dtype=self.dtype, device=self.device)

    def draw(self) -> Draw:
        """Draws the random part of an epoch from torch's global generator."""
        stored = self.train_split.stored
        order = torch.randperm(len(stored)).to(stored.device)
        return Draw(order, draw_augmentation(self.config.augmentation, stored))

    def batches(self, epoch: int) -> list[slice]:
        """The places of each step's samples in the order of an epoch."""
        return batches(self.config, len(self.train_split.labels), epoch)

    def batch(self, draw: Draw, places: slice | Int[Tensor, " batch"]) -> tuple[Tensor, Tensor]:
        """Images and labels of one step: the samples at these places of the epoch."""
        chosen = draw.order[..., places]
        images = self.train_split.images_at(chosen)
        if draw.augmentation is not None:
            images = draw.augmentation(images, places)
        return images, self.train_split.labels[chosen]

    def pace(self, epoch: int) -> Pace:
        """The pace of all steps of an epoch, computed at once, so that a device does not wait at each step."""
        ends = rounds(self.config)
        before = sum(
            len(self.batches(end)) * (min(end, epoch - 1) - start)
            for start, end in pairwise((0, *ends))
            if start < epoch - 1
        )
        shared = replace(self.config, seed=0, weight_decay=0.0)
        rates, factors, counts = paces(shared, len(self.batches(epoch)), epoch, before)
        count = torch.tensor(counts, dtype=torch.float64, device=self.device)
        return Pace(self.tensor(rates), self.tensor(factors), count)

    def end(self, epoch: int, data_term: float) -> float:
        """Balances the weights, if configured, and returns the objective. Raises `DivergedError` if not finite."""
        balance(self._balanced)
        decay = objective_of(self.model, self.config.weight_decay, self.free).penalty
        check_objective(self.config, epoch, data_term + decay)
        return data_term + decay

    # For a measurement

    def measure(self, epoch: int) -> tuple[Record, dict[str, Tensor]]:
        """Measures all metrics on train and test data, and the full gradient's norm, in one pass over each.

        Returns the record and a `snapshot`. Raises `DivergedError` if the run ends too far above epoch 0.
        """
        with products_in("float32", self.device), evaluation(self.model):
            record, shown = self._measure(epoch)
        objective = record["train.loss" if self.config.loss == "square" else "train.objective"]
        if epoch == 0:
            self.highest = highest_objective(self.config, objective, self.classifier.out_features)
        check_objective(self.config, epoch, objective, self.highest if epoch == last_epoch(self.config) else math.inf)
        return record, shown

    def _measure(self, epoch: int) -> tuple[Record, dict[str, Tensor]]:
        train_values, statistics, features = self._measure_split(self.train_split, with_gradient=True)
        record: Record = {
            "epoch": epoch,
            "learning_rate": learning_rate_at(self.config, epoch),
            "classifier_sum": self.classifier.weight.detach().double().sum(dim=0).tolist(),
            **self._gradient_norms(),
            **{f"train.{key}": value for key, value in train_values.items()},
            **(self._measure_layers() if self.config.layers == "all" else {}),
        }
        if self.test_split is not None:
            test_values, *_ = self._measure_split(self.test_split, with_gradient=False)
            record |= {f"test.{key}": value for key, value in test_values.items()}
        return record, snapshot(statistics, features[self.shown], self.train_split.labels[self.shown])

    def _measure_layers(self) -> Record:
        images, labels = (values.split(_CHUNK) for values in (self.train_split.images, self.train_split.labels))
        batches = list(zip(images, labels, strict=True))
        measured = measure_layers(
            self.model, batches, head=self.classifier, vci=False, device=self.device, together=False
        )
        return {
            f"train.layers.{layer}.{key}": measurement[key]
            for layer, measurement in measured.items()
            for key in LAYER_KEYS
            if key in measurement
        }

    def _measure_split(self, split: Split, *, with_gradient: bool) -> tuple[dict[str, Any], Statistics, Tensor]:
        self.model.zero_grad()
        data_term = self.tensor(0.0)
        with captured_features(self.classifier) as captured, torch.set_grad_enabled(with_gradient):
            for start in range(0, len(split), _CHUNK):
                images, labels = split.images_at(slice(start, start + _CHUNK)), split.labels[start : start + _CHUNK]
                outputs = self.model(images)
                check_head(outputs, captured, self.classifier)
                loss = self.loss(outputs, labels) / len(split.labels)
                data_term += loss.detach()
                if with_gradient:
                    loss.backward()
        features = torch.cat(captured)
        check_features(features)
        objective = objective_of(self.model, self.config.weight_decay, self.free)
        vci = features.shape[1] <= FULL_COVARIANCE_LIMIT  # a run records every key, whatever the number of samples
        head = self.classifier
        statistics, _ = gather(features, split.labels, head.weight, head.bias, vci=vci, objective=objective)
        values = Measurement(statistics).to_dict()
        if self.config.loss != "square":
            del values["loss"]  # it is the objective with the square loss, which is not minimised here
            values[self.config.loss] = data_term.item()
            values["objective"] = data_term.item() + objective.penalty
        return values, statistics, features

    def _gradient_norms(self) -> dict[str, float | None]:
        """`gradient_norm`, ‖∇L‖, and `relative_gradient`, ‖∇L‖ / (‖∇L_data‖ + λ‖W‖); None where nothing decays."""
        squares = torch.zeros(3, dtype=torch.float64)  # of ∇L, ∇L_data and λW
        for name, p in self.weights.items():
            if p.grad is None:
                raise NetworkError(
                    f"{name} of {type(self.model).__name__} does not enter the loss; remove it, or freeze it with "
                    f"requires_grad_(False)"
                )
            data, decay = p.grad.double(), self.decays[name] * p.detach().double()
            squares += torch.stack([part.square().sum() for part in (data + decay, data, decay)]).cpu()
        self.model.zero_grad()
        norm, data_norm, decay_norm = squares.sqrt().tolist()
        relative = norm / (data_norm + decay_norm) if decay_norm else None
        return {"gradient_norm": norm, "relative_gradient": relative}

    # For checkpoints

    def tensors(self, epoch: int) -> dict[str, Tensor]:
        """The state to resume from: `model.*`, `optimizer.*` and the epoch."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for kind, of_kind in self.moments.items():
            tensors |= {f"optimizer.{kind}.{name}": value for name, value in of_kind.items()}
        return tensors | {"epoch": torch.tensor(epoch)}

    def load(self, tensors: Mapping[str, Tensor]) -> int:
        """Restores the state from `tensors` and returns its epoch. Raises `CheckpointError` if they are of another."""
        own = self.tensors(0)
        for name in sorted(own.keys() | tensors.keys()):
            if name not in own or name not in tensors:
                raise CheckpointError(f"it {'lacks' if name in own else 'has'} the tensor {name!r}, unlike this run")
            if own[name].shape != tensors[name].shape or own[name].dtype != tensors[name].dtype:
                raise CheckpointError(
                    f"its tensor {name!r} is {_kind(tensors[name])}, and this run's {_kind(own[name])}"
                )
        self.measure(0)  # far above which it must not end
        model = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
        self.model.load_state_dict(model)
        for kind, of_kind in self.moments.items():
            for name, value in of_kind.items():
                value.copy_(tensors[f"optimizer.{kind}.{name}"])
        return int(tensors["epoch"])
