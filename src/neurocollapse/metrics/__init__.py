"""Neural-collapse metrics: pure functions of `Statistics`, one file for each of the paper's conditions."""

from .measurement import DEFINITIONS_VERSION, METRICS, Measurement, Metric

__all__ = ["DEFINITIONS_VERSION", "METRICS", "Measurement", "Metric"]
