"""How far a run is from rest, as its records say, and when it counts as being there."""

import math
from typing import Any

from .config import RunConfig
from .schedule import Record

#: With λ > 0 a run is at rest below both, the second where layers that follow one another must have one norm.
RELATIVE_GRADIENT, NORM_SPREAD = 0.1, 0.1

#: With λ = 0 a run is at rest when its data term is at most this and all samples are classified correctly.
LEVEL = {"square": 1e-4, "cross_entropy": 1e-3}


def distance(record: Record, before: Record | None) -> dict[str, Any]:
    """The keys of a record that say how far from rest a run is, besides the gradient.

    `norm_spread` is max/min − 1 of the ‖W_l‖², which are equal at every critical point of Eq. 1 in a network of layers
    that follow one another through ReLUs. `nc1_slope` is d log NC1 / d log epoch since the record `before`; None if
    there is none, if it is of epoch 0 or if an NC1 has no logarithm.
    """
    norms = record["train.weight_norms"]
    spread = max(norms) / min(norms) - 1 if min(norms, default=0) > 0 else math.inf
    return {"norm_spread": spread, "nc1_slope": _slope(record, before)}


def _slope(record: Record, before: Record | None) -> float | None:
    if before is None or before["epoch"] == 0:
        return None
    values = [before["train.nc1"], record["train.nc1"]]
    if not all(math.isfinite(value) and value > 0 for value in values):
        return None
    return math.log(values[1] / values[0]) / math.log(record["epoch"] / before["epoch"])


def at_rest(config: RunConfig, record: Record) -> bool:
    """Whether a run is at rest.

    With λ > 0: ‖∇L‖ / (‖∇L_data‖ + λ‖W‖) is at most RELATIVE_GRADIENT and, for a network that is homogeneous in every
    layer, `norm_spread` at most NORM_SPREAD. With λ = 0, where the norms grow for ever under the cross-entropy and ‖∇L‖
    has no scale: the data term is at most LEVEL, with no training error.
    """
    if config.weight_decay == 0:
        term = record["train.loss_data" if config.loss == "square" else "train.cross_entropy"]
        return bool(term <= LEVEL[config.loss] and record["train.accuracy"] == 1)
    spread = record["norm_spread"] if config.is_homogeneous else 0.0
    return bool(record["relative_gradient"] <= RELATIVE_GRADIENT and spread <= NORM_SPREAD)
