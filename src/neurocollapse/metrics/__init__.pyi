from .measurement import DEFINITIONS_VERSION as DEFINITIONS_VERSION
from .measurement import METRICS as METRICS
from .measurement import Measurement as Measurement
from .measurement import Metric as Metric
from .reference import reference_values as reference_values
