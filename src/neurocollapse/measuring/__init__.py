"""Measuring: features, or a model and its data, in; a `Measurement` out."""

from .features import gather, measure
from .models import measure_layers, measure_model

__all__ = ["gather", "measure", "measure_layers", "measure_model"]
