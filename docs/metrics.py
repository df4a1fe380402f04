"""Writes the table and the boxes of docs/metrics.md from `METRICS`: python docs/metrics.py.

The page has a pair of comments for each key of `METRICS` and one for the table. The text between them is generated, and
the rest is written by hand. A key without a place on the page, or a place without a key, is an error.
"""

import math
import re
from pathlib import Path

import pandas as pd
import torch

import neurocollapse as nc

PAGE = Path(__file__).with_suffix(".md")
OPEN, CLOSE = "<!-- {}: written by docs/metrics.py -->", "<!-- end -->"
_PLACE = re.compile(OPEN.format(r"(\w+)") + "\n.*?" + CLOSE, flags=re.DOTALL)

#: The size for which the table gives values.
CLASSES, PER_CLASS, FEATURES = 10, 100, 64
#: What a metric needs beside features and labels, by the first field of `Statistics` that it names.
_NEEDS = {
    "classifier": "`weight`",
    "outputs": "`weight`",
    "within_class_covariance_on_span": "`vci=True`, or at most about a second's work",
    "ood_mean": "`ood`",
    "objective": "`weight_decay` and a model",
    "nearest_mean_error": "`measure_layers`",
    "layer_weight": "`measure_layers`",
}


def page(text: str) -> str:
    """Regenerates the boxes and the table of the page. Raises `ValueError` if a key or a place is missing."""
    places = _PLACE.findall(text)
    expected = ["table", *nc.METRICS]
    if sorted(places) != sorted(expected):
        amiss = sorted({*places} ^ {*expected}) or sorted({key for key in places if places.count(key) > 1})
        raise ValueError(f"{PAGE.name} needs one place for every key of METRICS; look at {', '.join(amiss)}")
    values = reference()

    def written(match: re.Match[str]) -> str:
        key = match[1]
        inside = table(values) if key == "table" else definition(key)
        return f"{OPEN.format(key)}\n{inside}\n{CLOSE}"

    return _PLACE.sub(written, text)


def definition(key: str) -> str:
    metric = nc.METRICS[key]
    return f"\n> {metric.definition.rstrip('.')}.\n>\n> Needs {needs(key)}. Source: {metric.reference}.\n"


def needs(key: str) -> str:
    extra = [_NEEDS[name] for name in nc.METRICS[key].needs if name in _NEEDS]
    return ", ".join(["features, labels", *dict.fromkeys(extra[:1])])


def table(values: pd.DataFrame) -> str:
    lines = ["", "| key | needs | simplex ETF | no bias | no structure |", "|---|---|---|---|---|"]
    for key in nc.METRICS:
        shown = [
            "–" if key not in values.index or math.isnan(value := values.loc[key, column]) else f"{value:.3g}"
            for column in ("simplex_etf", "no_bias", "structureless")
        ]
        lines.append(f"| [`{key}`](#{key}) | {needs(key)} | {' | '.join(shown)} |")
    return "\n".join([*lines, ""])


def reference() -> pd.DataFrame:
    """The values of each key at collapse and without structure."""
    labels = torch.arange(CLASSES).repeat(PER_CLASS)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(len(labels), FEATURES, generator=generator, dtype=torch.float64)
    weight = torch.randn(CLASSES, FEATURES, generator=generator, dtype=torch.float64)
    return nc.reference_values(nc.measure(features, labels, weight, ood=features, vci=True))


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
