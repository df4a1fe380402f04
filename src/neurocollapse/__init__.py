"""Train, measure and explain neural collapse.

Public names load on first use, so importing the package loads neither PyTorch nor the plotting library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names as in _HOME, for type checkers and editors, which do not run __getattr__
    from neurocollapse.capture import CaptureWarning as CaptureWarning
    from neurocollapse.config import RunConfig as RunConfig
    from neurocollapse.datasets import Dataset as Dataset
    from neurocollapse.datasets import load_dataset as load_dataset
    from neurocollapse.geometry import simplex_etf as simplex_etf
    from neurocollapse.measuring import measure as measure
    from neurocollapse.measuring import measure_layers as measure_layers
    from neurocollapse.measuring import measure_model as measure_model
    from neurocollapse.measuring.classes import class_table as class_table
    from neurocollapse.metrics import METRICS as METRICS
    from neurocollapse.metrics import Measurement as Measurement
    from neurocollapse.metrics.reference import reference_values as reference_values
    from neurocollapse.networks import build_network as build_network
    from neurocollapse.networks import check_homogeneous as check_homogeneous
    from neurocollapse.shelf import runs as runs
    from neurocollapse.statistics import Classifier as Classifier
    from neurocollapse.statistics import ClassMeans as ClassMeans
    from neurocollapse.statistics import Projections as Projections
    from neurocollapse.statistics import Statistics as Statistics
    from neurocollapse.store import RunFolder as RunFolder
    from neurocollapse.sweep import Sweep as Sweep
    from neurocollapse.theory.unconstrained import UnconstrainedModel as UnconstrainedModel
    from neurocollapse.theory.unconstrained import solve_unconstrained as solve_unconstrained
    from neurocollapse.training import train as train
    from neurocollapse.verification import verify as verify

__version__ = "0.1.0"

# No module bears the name of a public object: importing the module would set the attribute and hide the object.
_HOME = {
    "METRICS": "metrics",
    "CaptureWarning": "capture",
    "ClassMeans": "statistics",
    "Classifier": "statistics",
    "Dataset": "datasets",
    "Measurement": "metrics",
    "Projections": "statistics",
    "RunConfig": "config",
    "RunFolder": "store",
    "Statistics": "statistics",
    "Sweep": "sweep",
    "build_network": "networks",
    "class_table": "measuring.classes",
    "check_homogeneous": "networks",
    "load_dataset": "datasets",
    "measure": "measuring",
    "measure_layers": "measuring",
    "measure_model": "measuring",
    "reference_values": "metrics.reference",
    "runs": "shelf",
    "UnconstrainedModel": "theory.unconstrained",
    "simplex_etf": "geometry",
    "solve_unconstrained": "theory.unconstrained",
    "train": "training",
    "verify": "verification",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value  # the next use finds it without coming here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
