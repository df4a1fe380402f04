"""Measuring: features, or a model and its data, in; a `Measurement` out."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
