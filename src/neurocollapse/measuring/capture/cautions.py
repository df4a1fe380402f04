"""Warns of what in a data loader would make a measurement wrong."""

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch.distributed
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler, WeightedRandomSampler

from ..._errors import CaptureWarning

#: The beginnings of the names of transforms that change a sample differently each time it is read.
RANDOM_TRANSFORMS = (
    "random", "colorjitter", "scalejitter", "autoaugment", "trivialaugment", "randaugment", "augmix", "mixup", "cutmix",
    "elastictransform", "gaussiannoise",
)  # fmt: skip


def warn_of(loader: Iterable[Any], *, stacklevel: int) -> None:
    """Warns, with `CaptureWarning`, if a loader does not show every sample exactly once and unchanged."""
    for caution in cautions(loader):
        warnings.warn(caution, CaptureWarning, stacklevel=stacklevel + 1)


def cautions(loader: Iterable[Any]) -> Iterator[str]:
    """Yields a sentence for each caution: samples left out, repeated or padded, random transforms, mixed labels."""
    if not isinstance(loader, DataLoader):
        return
    yield from _of_batches(loader)
    yield from _of_sampler(getattr(loader.batch_sampler, "sampler", loader.sampler))
    found = dict.fromkeys(_random_transforms(loader.dataset))
    if found:
        yield (
            f"the data set applies random transforms ({', '.join(found)}), so the features are those of altered "
            f"samples and vary from run to run; measure with the transforms of evaluation"
        )


def _of_batches(loader: DataLoader[Any]) -> Iterator[str]:
    sampler = loader.batch_sampler
    size = getattr(sampler, "batch_size", None)
    if getattr(sampler, "drop_last", False) and isinstance(size, int):
        total = _length(getattr(sampler, "sampler", None))
        if total is not None and total % size:
            yield f"drop_last=True leaves out {total % size} of {total} samples; measure with drop_last=False"
    collate = getattr(loader.collate_fn, "func", loader.collate_fn)  # the function of a functools.partial
    name = getattr(collate, "__name__", type(collate).__name__)
    if any(word in name.lower() for word in ("mixup", "cutmix")):
        yield f"collate_fn is {name}, which mixes samples of different classes; measure with one that does not"


def _of_sampler(sampler: object) -> Iterator[str]:
    if isinstance(sampler, RandomSampler | WeightedRandomSampler) and sampler.replacement:
        yield (
            f"{type(sampler).__name__} draws with replacement, so samples come twice or not at all; "
            f"measure with a sampler that draws each sample once"
        )
    if isinstance(sampler, DistributedSampler) and (total := _length(sampler.dataset)) is not None:
        faults, number = [], sampler.num_replicas
        if sampler.total_size > total:
            repeated = f"repeats {sampler.total_size - total} of {total} samples"
            faults.append(f"{repeated} so that all {number} processes get the same number")
        elif sampler.total_size < total:
            faults.append(f"leaves out {total - sampler.total_size} of {total} samples (drop_last=True)")
        if number > 1 and not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            share = f"the share of process {sampler.rank} of {number}"
            faults.append(f"shows {sampler.num_samples} of {total} samples, {share}, since there is no process group")
        if faults:
            yield f"DistributedSampler {' and '.join(faults)}; measure with a loader that shows each sample once"


def _length(sized: Any) -> int | None:
    try:
        return len(sized)
    except TypeError:
        return None


def _random_transforms(dataset: object) -> Iterator[str]:
    """Yields the names of a data set's random transforms, also within Subset, ConcatDataset or another wrapper."""
    waiting, seen = [dataset], set()
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        waiting += [getattr(each, "dataset", None), *_as_list(getattr(each, "datasets", None))]
        for attribute in ("transform", "transforms"):
            for transform in _within(getattr(each, attribute, None)):
                name = type(transform).__name__
                if name.lower().startswith(RANDOM_TRANSFORMS):
                    yield name


def _within(transform: Any) -> Iterator[Any]:
    """Yields a transform and those of which it is composed."""
    if transform is None:
        return
    if isinstance(transform, list | tuple):
        parts: list[Any] = list(transform)
    else:
        yield transform
        parts = list(transform) if isinstance(transform, nn.Sequential) else []
        parts += [*_as_list(getattr(transform, "transforms", None)), getattr(transform, "transform", None)]
    for part in parts:
        yield from _within(part)


def _as_list(value: object) -> list[Any]:
    return list(value) if isinstance(value, list | tuple | nn.ModuleList) else []


def warn_of_training(model: nn.Module) -> None:
    """Warns of modules that stay in training mode."""
    modes = [type(module).__name__ for module in model.modules() if getattr(module, "training", False)]
    if modes:
        warnings.warn(
            f"{len(modes)} modules are in training mode and stay in it ({', '.join(dict.fromkeys(modes))}): dropout "
            f"alters features, batch normalisation ties them to their batch and goes on counting; pass eval_mode=True",
            CaptureWarning,
            stacklevel=3,
        )
