"""Results: the numbers of finished runs, by name, from which claims are judged."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..geometry import Gram, pairs
from ..sweeps import RunFolder
from ..theory import TheoryTable
from ..training import RunConfig
from .experiments import MATCHED, NC3_LEVEL, Setting

#: The names of comparisons that the theory table has for each layer start with this.
LAYERS = "λ‖W‖² of"

#: The metrics of a run at the training loss at which it is compared with others.
AT_LEVEL = ("nc0", "nc1", "nc2_equinorm", "nc2_cosine", "nc3")


@dataclass(frozen=True)
class Result:
    """The numbers of a run at its end.

    `values` are those of the last record (`train.nc1`, ...), the training error, the residuals of the theory table
    (`if SQI holds: Theorem 2.3: W, Eq. 2`, ...; of the worst layer if each has one), the numbers of `_of_classifier`
    and `_on_the_way`, and the product of the layers' norms with the margin divided by it.
    """

    config: RunConfig
    values: Mapping[str, float]
    notes: tuple[str, ...] = ()
    """Remarks about the run."""
    provenance: tuple[Mapping[str, Any], ...] = ()
    """The versions and machines that it ran with."""


def results_of(folders: Iterable[RunFolder], tables: Mapping[RunFolder, TheoryTable]) -> list[Result]:
    """The results of those runs that have finished. Raises `RunError` if one is damaged."""
    return [_result(folder, tables.get(folder)) for folder in folders if folder.started and folder.status == "finished"]


def notes_on(setting: Setting, results: Mapping[RunConfig, Result]) -> list[str]:
    """The notes on a setting's results, with the number of runs that each applies to."""
    found = [results[config] for config in setting if config in results]
    counts = Counter(note for result in found for note in dict.fromkeys(result.notes))
    return [
        f"Note: {note}." if count == len(found) else f"Note, of {count} of these {len(found)} runs: {note}."
        for note, count in counts.items()
    ]


def _result(folder: RunFolder, table: TheoryTable | None) -> Result:
    records = folder.records()
    last = records[-1]
    values = {key: float(value) for key, value in last.items() if isinstance(value, int | float)}
    values["train.error"] = 1 - values["train.accuracy"]
    norms = last["train.weight_norms"]
    values["weight_norms_product"] = math.exp(math.fsum(map(math.log, norms)) / 2) if all(norms) else 0.0
    values["normalized_margin"] = _divided(values["train.margin_min"], values["weight_norms_product"])
    values |= _on_the_way(folder.config, records)
    values |= _of_classifier(folder.weights()["classifier.weight"].double())
    described = folder.description
    return Result(folder.config, values | _residuals(table), tuple(described["notes"]), tuple(described["provenance"]))


def _on_the_way(config: RunConfig, records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The metrics at the first record at the level of its loss, 1 if it misses it, and the epoch of NC3's level."""
    term = "train.loss_data" if config.loss == "square" else f"train.{config.loss}"
    matched = next((record for record in records if record[term] <= MATCHED[config.loss]), None)
    passed = next((record["epoch"] for record in records if record["train.nc3"] <= NC3_LEVEL), math.nan)
    at_level = {f"matched.{key}": (matched or {}).get(f"train.{key}", math.nan) for key in AT_LEVEL}
    return {"matched.missed": float(matched is None), "nc3.epoch": float(passed), **at_level}


def _of_classifier(weight: Tensor) -> dict[str, float]:
    """The classifier's norm, and numbers of its rows for the last half of the classes, which imbalance makes small."""
    large = (len(weight) + 1) // 2
    norms = torch.linalg.norm(weight, dim=1)
    return {
        "classifier_norm": torch.linalg.norm(weight).item(),
        "minority_cosine": pairs(Gram(weight[large:]).cosines()).mean().item(),
        "minority_norm": _divided(norms[large:].mean().item(), norms[:large].mean().item()),
    }


def _divided(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan


def _residuals(table: TheoryTable | None) -> dict[str, float]:
    found: dict[str, float] = {}
    for reading, comparisons in table.sections.items() if table else ():
        for comparison in comparisons:
            key = f"{reading}: {LAYERS if comparison.name.startswith(LAYERS) else comparison.name}"
            found[key] = max(comparison.residual, found.get(key, 0.0))
    return found
