"""Tries a user's own network on a few images before anything is trained.

Does it run, is it the network of an earlier run, is it homogeneous? The package's own networks need none of this.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .._errors import DivergedError, NetworkError
from ..datasets import Dataset
from ..networks import Fingerprint, check_homogeneous, find_classifier, fingerprint_of
from ..training import RunConfig, epochs, network_of, seeded, train_together

#: The number of images on which a network is tried, and homogeneity tested.
_IMAGES = 4

NOT_HOMOGENEOUS = "the network is not homogeneous: the theory's identities do not hold for it"

DECOUPLED = "{} decouples its decay from the gradient: it does not end at critical points of the objective shown"


def is_users_own(config: RunConfig) -> bool:
    """Whether the network is the user's own, given as module:function."""
    return ":" in config.network


def probe(config: RunConfig, dataset: Dataset) -> None:
    """Trains a user's network for one step on two images of each class. Raises `NetworkError` for any failure."""
    if not is_users_own(config):
        return
    few = few_of_each_class(dataset, 2 * dataset.num_classes)
    size = 1 if config.batch_size == 1 else len(few.train.labels)
    step = replace(config, epochs=1, learning_rate=1e-9, batch_size=size)  # at this rate it cannot diverge
    with _named(config.network, few.train.images):
        with torch.no_grad():
            outputs = _fresh(config, dataset).eval()(few.train.images)
        if isinstance(outputs, Tensor) and not outputs.isfinite().all():
            raise DivergedError
        for _ in epochs(step, few):
            pass


def probe_stacked(config: RunConfig, dataset: Dataset) -> None:
    """Trains two runs of a network as one program for a step. Raises `NetworkError` if they cannot be stacked."""
    few = few_of_each_class(dataset, 2 * dataset.num_classes)
    run = replace(config, epochs=1, learning_rate=1e-9, batch_size=max(2, len(few.train.labels)))
    with _named(config.network, few.train.images):
        for _ in train_together([run, run], few):
            pass


def fingerprint(config: RunConfig, dataset: Dataset) -> Fingerprint | None:
    """Returns the fingerprint of a user's network as it starts with seed 0, or None for the package's own networks.

    Raises `NetworkError`.
    """
    if not is_users_own(config):
        return None
    images = dataset.train.images_at(slice(_IMAGES))
    with _named(config.network, images):
        return fingerprint_of(lambda: _fresh(config, dataset), images)


def run_notes(config: RunConfig, dataset: Dataset) -> tuple[str, ...]:
    """Returns the notes to show beside any result of the run. Raises `NetworkError`."""
    notes = () if _is_homogeneous(config, dataset) else (NOT_HOMOGENEOUS,)
    return notes + ((DECOUPLED.format(config.optimizer),) if config.decouples else ())


def _is_homogeneous(config: RunConfig, dataset: Dataset) -> bool:
    if not is_users_own(config):
        return config.is_homogeneous
    images = dataset.train.images_at(slice(_IMAGES))
    with _named(config.network, images):
        # Dropout and batch normalisation show only in training.
        model = _fresh(config, dataset).train()
        _fill_zero_biases(model)
        classifier = find_classifier(model, images, dataset.num_classes)
        if config.bias in ("free", "decayed") and classifier.bias is not None:  # the theory allows this bias
            nn.init.zeros_(classifier.bias)
        with seeded(0, 1):
            found = check_homogeneous(model, images, scales=(3.0,))  # one scale, to keep the wait short
    # Not `holds`, for which a deviation of nan is a failure: here it shows nothing.
    return not any(deviation > 1e-4 for deviation in (found.by_input, *found.by_layer.values()))


def few_of_each_class(dataset: Dataset, samples: int) -> Dataset:
    """Returns about `samples` training samples, equally many of each class and at least one, and no test samples."""
    labels = dataset.train.labels
    per_class = max(1, samples // dataset.num_classes)
    part = torch.cat([(labels == c).nonzero().flatten()[:per_class] for c in range(dataset.num_classes)])
    return replace(dataset, train=dataset.train.taken(part), test=None)


def _fresh(config: RunConfig, dataset: Dataset) -> nn.Module:
    with seeded(0, 0):
        return network_of(config, dataset)


def _fill_zero_biases(model: nn.Module) -> None:
    """Replaces biases of zero by 0.1, since a bias that starts at zero does not stay there."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.ndim < 2 and not parameter.any():
                parameter.fill_(0.1)


@contextmanager
def _named(network: str, images: Float[Tensor, "samples *shape"]) -> Iterator[None]:
    """Turns whatever the user's code raises into one `NetworkError` that names the network and the place."""
    try:
        yield
    except NetworkError as error:
        text = str(error)
        raise NetworkError(text if network in text else f"{network}: {text}") from error
    except DivergedError as error:
        raise NetworkError(
            f"{network}: the network's output is not finite before training; look for NaN or huge numbers in its "
            f"first weights"
        ) from error
    except (Exception, SystemExit) as error:
        raise NetworkError(
            f"{network} raised {type(error).__name__}: {error} ({_place(error)}) on images of shape "
            f"{tuple(images.shape)}; mend it: it must take such images, in float32"
        ) from error


def _place(error: BaseException) -> str:
    place: Any = traceback.extract_tb(error.__traceback__)[-1]
    return f"{place.filename}, line {place.lineno}"
