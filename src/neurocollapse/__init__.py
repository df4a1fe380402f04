"""Train, measure and explain neural collapse.

Public names load on first use, so importing the package loads neither PyTorch nor the plotting library.
"""

from typing import Any

import lazy_loader

from ._errors import did_you_mean
from ._version import __version__ as __version__

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    try:
        return _load(name)
    except AttributeError as error:
        raise AttributeError(f"{error}{did_you_mean(name, __all__)}") from None
