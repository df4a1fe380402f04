"""Measuring: features, or a model and its data, in; a `Measurement` out."""

from .features import gather, is_cheap, measure
from .models import measure_layers, measure_model, objective_of

__all__ = ["gather", "is_cheap", "measure", "measure_layers", "measure_model", "objective_of"]
