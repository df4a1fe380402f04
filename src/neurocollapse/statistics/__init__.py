"""Sufficient statistics of collapse: everything a metric may read, folded from batches of features.

Two sweeps, each an object with `update` and `merge`: `ClassMeans`, then `Projections`, which yields `Statistics`.
Where the data can be seen only once, `ClassMoments` yields a `Statistics` in which some fields are absent.

Sums run in float64 on features from which one stored sample, the reference, has been subtracted: the difference of
two float32 numbers is exact there, so neither a common offset nor collapse itself costs digits.
Features are cast in blocks, never as a whole.
"""

from .batches import FULL_COVARIANCE_LIMIT, check_shapes
from .means import ClassMeans
from .one_pass import ClassMoments
from .projections import Projections
from .values import Classifier, Objective, Outputs, Statistics

__all__ = [
    "FULL_COVARIANCE_LIMIT",
    "ClassMeans",
    "ClassMoments",
    "Classifier",
    "Objective",
    "Outputs",
    "Projections",
    "Statistics",
    "check_shapes",
]
