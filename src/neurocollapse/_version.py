"""The version of the package, which every floor may read."""

__version__ = "0.1.0"
