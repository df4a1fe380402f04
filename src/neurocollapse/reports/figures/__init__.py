"""Figures: pure functions from numbers to a matplotlib figure, and one that writes it to disk."""

from .drawing import save_figure
from .layers import layers_figure
from .records import collapse_figure

__all__ = ["collapse_figure", "layers_figure", "save_figure"]
