"""Classifiers that are homogeneous in every layer, networks of the user's own, and where their classifier is."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
