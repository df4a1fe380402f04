"""Data sets: bundled digits, MNIST and CIFAR-10 from their published files, the user's own, a Gaussian mixture."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
