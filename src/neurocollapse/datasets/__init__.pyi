from .dataset import ByteSplit as ByteSplit
from .dataset import Dataset as Dataset
from .dataset import Split as Split
from .load import load_dataset as load_dataset
from .mixture import gaussian_mixture as gaussian_mixture
from .publications import DATASETS as DATASETS
from .publications import PUBLICATIONS as PUBLICATIONS
from .selection import Selection as Selection
