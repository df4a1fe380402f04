"""Theory beside measurement: identities, predictions and closed forms, each a small function to `Comparison`s."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
