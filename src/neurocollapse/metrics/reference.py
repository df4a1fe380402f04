"""Reference values for a measurement: features without structure, and exact collapse, of the same size."""

from math import log, nan, sqrt

import pandas as pd
import torch

from .._errors import checks_arguments
from ..geometry import centered_span
from ..statistics import Classifier, Statistics
from .measurement import METRICS, Measurement

#: How many numbers to draw for structureless class means, in at least two sets. A set of many numbers varies little,
#: so few sets are enough.
_DRAWN = 10**6


@checks_arguments
def reference_values(measurement: Measurement, initial: Measurement | None = None) -> pd.DataFrame:
    """Tabulates each number of a measurement beside its values without structure and at collapse, a row per key.

    The columns are:

    - `value`, as measured;
    - `initial`, of the untrained network, if its measurement is given;
    - `structureless`, the mean for normal features independent of the labels, with the same class sizes, p and C and
      a random classifier;
    - `simplex_etf`, at collapse to a simplex ETF around zero, dual to the classifier;
    - `no_bias`, at the optimum of the unconstrained features model without a bias, where the classifier is an
      orthogonal frame.

    An entry without a reference value, such as the loss's, is nan.

    With few samples NC1 is small even without collapse: structureless features have
    NC1 ≈ (1 − C/N) n C (C−1)/(p − C), with n samples in each class. Only a measured NC1 well below that shows collapse.

    >>> import neurocollapse as nc
    >>> etf = nc.simplex_etf(4)
    >>> m = nc.measure(etf.repeat(9, 1), torch.arange(4).repeat(9), weight=etf)
    >>> nc.reference_values(m).loc["nc1", ["value", "simplex_etf"]].round(6).tolist()
    [0.0, 0.0]
    """
    keys = [key for key in measurement if key != "weight_norms"]
    columns = {
        "value": dict(measurement),
        **({} if initial is None else {"initial": dict(initial)}),
        "structureless": _structureless(measurement),
        "simplex_etf": _collapsed(measurement.num_classes, measurement.num_features),
        "no_bias": _collapsed_without_bias(measurement.num_classes, measurement.num_features),
    }
    table = pd.DataFrame({name: [values.get(key, nan) for key in keys] for name, values in columns.items()})
    return table.set_index(pd.Index(keys, name="key")).astype(float)


def _structureless(measurement: Measurement) -> dict[str, float]:
    """Averages the metrics of normal features. Draws their statistics, not the features themselves."""
    generator = torch.Generator().manual_seed(0)
    number = max(2, min(100, _DRAWN // (measurement.num_classes * measurement.num_features)))
    draws = [Measurement(_draw(measurement, generator)) for _ in range(number)]
    # the variance of the norms depends on the features' scale, which is arbitrary here
    means = {key: sum(draw[key] for draw in draws) / number for key in draws[0] if key != "nc2_norm_variance"}
    chance = 1 / len(measurement.class_counts)  # also a class that is left out may be decided for
    return means | {"accuracy": chance, "nc4": 1 - chance}


def _draw(measurement: Measurement, generator: torch.Generator) -> Statistics:
    counts, of_means = torch.tensor(measurement.measured_counts), torch.tensor(measurement.mean_counts)
    num_classes, num_features, total = len(counts), measurement.num_features, int(counts.sum())
    # deviations from the samples' own mean have one degree of freedom less; held-out ones add the variance of the mean
    degrees, factors = (
        (counts, 1 + 1 / of_means.double()) if measurement.held_out else (counts - 1, torch.ones(num_classes).double())
    )

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def chi_squared(degrees: torch.Tensor) -> torch.Tensor:
        """Approximated by (1 − 2/9k + z √(2/9k))³ k (Wilson and Hilferty, 1931), good from a few degrees on."""
        spread = 2 / (9 * degrees.double().clamp(min=1))
        return degrees * (1 - spread + normal(*degrees.shape) * spread.sqrt()) ** 3

    means = normal(num_classes, num_features) / of_means.sqrt()[:, None]
    centered = means - means.mean(dim=0)
    span = centered_span(centered, scale=0.0)
    return Statistics(
        class_counts=counts,
        class_weights=torch.full((num_classes,), 1 / num_classes, dtype=torch.float64),
        global_mean=means.mean(dim=0),
        centered_class_means=centered,
        span=span,
        within_class_variances=factors * chi_squared(num_features * degrees) / counts,
        within_class_variances_on_span=(factors @ counts.to(factors) / total).item()
        * chi_squared(torch.full((span.rank,), int(degrees.sum())))
        / total,
        classifier=Classifier(normal(num_classes, num_features)),
    )


#: Keys that are 0 at collapse to any means that are dual to W.
_VANISHING = (
    *(key for key in METRICS if key.startswith("nc1")),
    *("nc2_norm_variance", "nc2_equinorm", "nc2_equinorm_weight", "nc2_uniformity_spread"),
    *("nc2_cosine", "nc2_cosine_max", "nc2_cosine_weight", "nc2_etf", "nc2_etf_weight"),
    *("nc0", "nc3", "nc3_centered", "nc3_uncentered", "nc3_duality", "nc4", "sqi_gap_spread", "sqi_off_spread"),
)


def _collapsed(num_classes: int, num_features: int) -> dict[str, float]:
    C, p = num_classes, num_features
    values = dict.fromkeys(_VANISHING, 0.0) | {"accuracy": 1.0, "nc2_uniformity": -log(2 * C / (C - 1)) / 2}
    if p < C - 1:  # no simplex fits: only a Gram matrix of lower rank can be reached, and the angles are not known
        values |= dict.fromkeys(("nc2_etf", "nc2_etf_weight", "nc3_duality"), sqrt(2 - 2 * sqrt(p / (C - 1))))
        values |= dict.fromkeys(("nc2_cosine", "nc2_cosine_max", "nc2_cosine_weight"), nan)
        values |= dict.fromkeys(("nc2_uniformity", "nc2_uniformity_spread"), nan)
    return values


def _collapsed_without_bias(num_classes: int, num_features: int) -> dict[str, float]:
    C = num_classes
    if num_features < C:  # an orthogonal frame of C rows does not fit
        return {}
    orthogonal = sqrt(2 - 2 * sqrt(1 - 1 / C))
    frame = {"nc3": orthogonal, "nc2_etf_weight": orthogonal, "nc2_cosine_weight": 1 / (C - 1), "sqi_off": 0.0}
    return _collapsed(C, num_features) | frame | {"nc0": 1 / sqrt(C)}
