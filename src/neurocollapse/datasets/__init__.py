"""Data: bundled digits, MNIST and CIFAR-10 from their published files, the user's own, a Gaussian mixture."""

from .dataset import Dataset, DatasetError, Split
from .load import load_dataset
from .mixture import gaussian_mixture

__all__ = ["Dataset", "DatasetError", "Split", "gaussian_mixture", "load_dataset"]
