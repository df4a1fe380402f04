"""Sufficient statistics of collapse: everything a metric may read, folded from batches of features.

Two sweeps, each an object with `update` and `merge`: `ClassMeans`, then `Projections`, which yields `Statistics`.
Where the data can be seen only once, `ClassMoments` yields a `Statistics` in which some fields are absent.

The first sweep sums in float64, less one stored sample, the reference, so that a common offset costs no digits. The
second multiplies h − μ_c, which is small at collapse and exact to its own last digits, so that float32 will do where
the features have no more; see `Projections`. Features are read in blocks and never copied as a whole.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
