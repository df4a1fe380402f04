"""`METRICS`, the table of all metrics, and `Measurement`, their values for some features."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._errors import did_you_mean
from .._html import html_table
from ..geometry import EPSILON
from ..statistics import ClassMeans, Statistics, name_of
from . import decisions, duality, layers, simplex, variability

#: Version of the definitions below. It changes when the number behind a key changes.
DEFINITIONS_VERSION = 1

Value = float | tuple[float, ...]


@dataclass(frozen=True)
class Metric:
    """A metric: a pure function of `Statistics`, the fields that it needs, and its source."""

    key: str
    function: Callable[[Statistics], Value]
    needs: tuple[str, ...]
    reference: str

    @property
    def definition(self) -> str:
        """The first paragraph of the function's docstring."""
        paragraph = (self.function.__doc__ or "").strip().split("\n\n")[0]
        return " ".join(paragraph.split())

    def lacks(self, statistics: Statistics) -> str | None:
        """Says in words what the caller must give for this metric; None if nothing is missing."""
        return next((_GIVEN_BY[name] for name in self.needs if getattr(statistics, name) is None), None)


#: What a caller must give to get a field of `Statistics`.
_GIVEN_BY = {
    "classifier": "the classifier's weight",
    "outputs": "the classifier's weight",
    "nearest_mean_disagreement": "a second sweep over the features",
    "objective": "the weight decay and every layer's norm, which are known in training",
    "within_class_covariance_on_span": "the whole of Σ_W, at N p² operations; pass vci=True",
    "nearest_mean_error": "the nearest class mean of every sample, which measure_layers has",
    "layer_weight": "the weight of the layer, which measure_layers has of linear layers and convolutions",
    "input_span": "the class means of the layer's input, which measure_layers has where there is one label per sample",
    "ood_mean": "features of samples of no class; pass ood",
}

_PAPER = "Rangamani and Banburski-Fahey (2022)"
_PAPYAN = "Papyan, Han and Donoho (2020)"
_INTERMEDIATE = "Rangamani et al. (2023)"
_WEIGHT = ("classifier",)
_LAYER = ("layer_weight", "input_span")
_OUTPUTS = ("outputs",)
_OBJECTIVE = ("objective", "outputs")


def _table(*rows: tuple[Callable[[Statistics], Value], tuple[str, ...], str]) -> dict[str, Metric]:
    return {function.__name__: Metric(function.__name__, function, needs, source) for function, needs, source in rows}


METRICS: dict[str, Metric] = _table(
    (variability.nc1, (), f"{_PAPER}, Section 3"),
    (variability.nc1_per_class, (), _PAPYAN),
    (variability.nc1_trace_ratio, (), "Tirer, Huang and Niles-Weed (2023), Eq. 3"),
    (variability.nc1_cdnv, (), "Galanti, György and Hutter (2022)"),
    (variability.nc1_vci, ("within_class_covariance_on_span",), "Xu and Liu (2023)"),
    (simplex.nc2_norm_variance, (), f"{_PAPER}, Section 3"),
    (simplex.nc2_equinorm, (), _PAPYAN),
    (simplex.nc2_equinorm_weight, _WEIGHT, _PAPYAN),
    (simplex.nc2_cosine, (), f"{_PAPER}, Section 3"),
    (simplex.nc2_cosine_max, (), "the largest of those behind nc2_cosine"),
    (simplex.nc2_cosine_weight, _WEIGHT, _PAPYAN),
    (simplex.nc2_etf, (), "Zhu et al. (2021), there for W; Dang et al. (2023)"),
    (simplex.nc2_etf_weight, _WEIGHT, "Zhu et al. (2021)"),
    (duality.nc0, _WEIGHT, "Zhao et al. (2026), there without the divisor"),
    (duality.nc3, _WEIGHT, f"{_PAPER}, Section 3"),
    (duality.nc3_centered, _WEIGHT, "nc3 without the mean row of W"),
    (duality.nc3_uncentered, _WEIGHT, "nc3 with uncentred means"),
    (duality.nc3_duality, _WEIGHT, "Zhu et al. (2021)"),
    (simplex.nc2_uniformity, (), "Wu and Papyan (2024), there of means not centred"),
    (simplex.nc2_uniformity_spread, (), "Wu and Papyan (2024), there of means not centred"),
    (decisions.nc4, ("classifier", "nearest_mean_disagreement"), f"{_PAPER}, Section 2.2"),
    (duality.nc5, ("ood_mean",), "Ammar et al. (2024)"),
    (decisions.sqi_gap, _OUTPUTS, f"{_PAPER}, Assumption 1"),
    (decisions.sqi_gap_spread, _OUTPUTS, f"{_PAPER}, Assumption 1"),
    (decisions.sqi_off, _OUTPUTS, f"{_PAPER}, Assumption 1"),
    (decisions.sqi_off_spread, _OUTPUTS, f"{_PAPER}, Assumption 1"),
    (decisions.sqi_sum, _OUTPUTS, f"{_PAPER}, Assumption 1"),
    (decisions.accuracy, _OUTPUTS, "share of correct argmax"),
    (decisions.margin_min, _OUTPUTS, "multiclass margin"),
    (decisions.margin_mean, _OUTPUTS, "multiclass margin"),
    (decisions.loss_data, _OUTPUTS, f"{_PAPER}, Eq. 1"),
    (decisions.loss, _OBJECTIVE, f"{_PAPER}, Eq. 1"),
    (layers.nearest_mean_error, ("nearest_mean_error",), "Galanti et al. (2022), there of test samples too"),
    (layers.weight_stable_rank, ("layer_weight",), "Rudelson and Vershynin (2007)"),
    (layers.weight_share_simplex, ("layer_weight",), f"{_INTERMEDIATE}, there of singular values, not squared"),
    (layers.weight_share_frame, ("layer_weight",), f"{_INTERMEDIATE}, there of singular values, not squared"),
    (layers.weight_alignment_simplex, _LAYER, f"{_INTERMEDIATE}, there of means not centred, cosines not squared"),
    (layers.weight_alignment_frame, _LAYER, f"{_INTERMEDIATE}, there of means not centred, cosines not squared"),
    (decisions.weight_norms, ("objective",), f"{_PAPER}, Lemma 2.2"),
)


class Measurement(Mapping[str, Any]):
    """The values of all metrics that the statistics allow: a mapping from the keys of `METRICS` to float.

    Only `weight_norms` is a tuple, with a number per layer. A metric that needs something that was not given is
    absent, and `missing` says what it needs. Degenerate features give nan or inf, as the metric's definition says.
    """

    def __init__(self, statistics: Statistics, means: ClassMeans | None = None, *, held_out: bool = False):
        self._values: dict[str, Value] = {
            key: metric.function(statistics) for key, metric in METRICS.items() if not metric.lacks(statistics)
        }
        #: the absent keys, each with what it needs, in words
        self.missing: dict[str, str] = {
            key: lacking for key, metric in METRICS.items() if (lacking := metric.lacks(statistics))
        }
        #: the class means that the numbers refer to, for `measure(..., means=)` of held-out samples
        self.means = means
        #: whether the class means are those of other samples
        self.held_out = held_out
        #: the number of samples of every label, 0 for a class that is left out
        self.class_counts: tuple[int, ...] = statistics.label_counts
        #: C, the number of classes that are measured
        self.num_classes = statistics.num_classes
        #: rank of Σ_B, at most min(p, C−1); see `geometry.centered_span` for its tolerance
        self.rank = statistics.span.rank
        #: singular values of the centred class means up to this one count as rounding: see `geometry.centered_span`
        self.rank_tolerance = statistics.span.tolerance
        #: pairs of classes with equal means and no spread, which `nc1_cdnv` and `nc2_uniformity` leave out
        self.one_point = statistics.mean_pairs.one_point
        self.num_features = statistics.num_features
        rounded = f", as {name_of(statistics.precision)} is rounded" if statistics.precision > EPSILON else ""
        self._tolerance = f"singular values above {self.rank_tolerance:.1e}{rounded}"

    def __getitem__(self, key: str) -> Any:
        if key in self.missing:
            raise KeyError(f"{key} is not here: it needs {self.missing[key]}")
        if key not in self._values:
            raise KeyError(f"there is no key {key!r}{did_you_mean(str(key), METRICS)}; see neurocollapse.METRICS")
        return self._values[key]

    if not TYPE_CHECKING:  # to which any name would be one that is there

        def __getattr__(self, name: str) -> Any:
            meant = did_you_mean(name, dir(self))
            hint = f"; a measurement is a mapping, so write [{name!r}]" if name in METRICS else meant
            raise AttributeError(f"Measurement has no attribute {name!r}{hint}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def left_out(self) -> tuple[int, ...]:
        """The labels of the classes that are left out."""
        return tuple(label for label, count in enumerate(self.class_counts) if not count)

    @property
    def measured_counts(self) -> tuple[int, ...]:
        """The number of samples of every class that is measured."""
        return tuple(count for count in self.class_counts if count)

    @property
    def mean_counts(self) -> tuple[int, ...]:
        """The number of samples behind the mean of every class that is measured."""
        return self.measured_counts if self.means is None else tuple(self.means.counts.tolist())

    def to_dict(self) -> dict[str, Any]:
        """The metrics, `class_counts` and `rank` as plain numbers for JSON."""
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in self.items()}
        return values | {"class_counts": list(self.class_counts), "rank": self.rank}

    def _summary(self) -> str:
        counts = sorted(set(self.measured_counts))
        left_out = f" of {len(self.class_counts)}" if self.left_out else ""
        per_class = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        chance = variability.structureless_nc1(self.mean_counts, self.num_features, held_out=self.held_out)
        return (
            f"{sum(self.class_counts)} samples, {self.num_classes}{left_out} classes ({per_class} each), "
            f"{self.num_features} features, rank {self.rank} ({self._tolerance})"
            + (f"; {len(self.left_out)} classes left out" if left_out else "")
            + (f"; {self.one_point} pairs of classes are one point each, left out of CDNV" if self.one_point else "")
            + ("" if math.isnan(chance) else f"; without structure nc1 would be about {chance:.2g}")
        )

    def _rows(self) -> list[tuple[str, str, str]]:
        return [(key, _format(value), METRICS[key].definition.rstrip(".")) for key, value in self.items()]

    def __repr__(self) -> str:
        width = max(map(len, self))
        rows = [f"{key:<{width}} {value:>12}  {definition}" for key, value, definition in self._rows()]
        return "\n".join([f"Measurement: {self._summary()}", *rows])

    def _repr_html_(self) -> str:
        return html_table(self._summary(), self._rows())


def _format(value: Value) -> str:
    if isinstance(value, tuple):
        return " ".join(f"{v:.4g}" for v in value)
    return f"{value:.6g}"
