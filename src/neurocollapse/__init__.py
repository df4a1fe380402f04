"""Train, measure and explain neural collapse.

Public names load on first use, so importing the package loads neither PyTorch nor the plotting library.
"""

import lazy_loader

from ._version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
