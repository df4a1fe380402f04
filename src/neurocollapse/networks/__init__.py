"""Networks: classifiers that are homogeneous in every layer, the user's own, and how to find the head of any."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
