"""Captures the features that a classifier's head sees while the model runs: any model, any loader, one pass."""

from .cautions import warn_of
from .forward import MEMORY_BUDGET, Captured, CaptureOptions, capture
from .loaders import LABEL_KEYS, Batch, batches
from .store import Budget, FeatureStore
from .subset import indices_of, reloaded, stratified_subset

__all__ = [
    "LABEL_KEYS",
    "MEMORY_BUDGET",
    "Batch",
    "Budget",
    "CaptureOptions",
    "Captured",
    "FeatureStore",
    "batches",
    "capture",
    "indices_of",
    "reloaded",
    "stratified_subset",
    "warn_of",
]
