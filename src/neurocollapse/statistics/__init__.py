"""Sufficient statistics of collapse: everything a metric may read, accumulated over batches of features.

There are two sweeps, each an object with `update` and `merge`: `ClassMeans`, then `Projections`, which gives
`Statistics`. For data that can be seen only once, `ClassMoments` gives a `Statistics` in which some fields are absent.

The first sweep subtracts one stored sample, the reference, and sums in float64, so that a common offset costs no
digits. The second multiplies h − μ_c, which is small at collapse and exact to its own last digits, so that float32 is
enough for features of at most 32 bits; see `Projections`. Features are read in blocks and never copied as a whole.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
