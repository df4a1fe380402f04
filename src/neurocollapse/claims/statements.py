"""The claims and open questions of the paper, with the quantities that are measured and the rules that judge them.

Every quantity is small if the claim holds: a ratio to λ = 0, a difference or a residual.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from . import coupling
from .contrasts import (
    Numbers,
    Results,
    alone,
    chance_of_ranks,
    compared,
    decayed,
    difference_interval,
    negated,
    numbers,
    rank_correlation,
    undecayed,
)
from .experiments import Setting
from .results import LAYERS, Result
from .verdicts import FAVOURABLE, HALVED, Part, Rule, Verdict, combined, holm, quotient_interval

#: For a relative residual: below a tenth, or below a half.
RESIDUAL = Rule(0.1, 0.5)
#: For a difference of shares of samples: lower by half a per cent, or lower at all.
SHARE = Rule(-0.005, 0.0)
#: For the training error, if the claim is about networks that fit.
FITTED = Rule(0.001, 0.01, contradicted=False)
#: For a rank correlation that the claim says is negative.
CORRELATED = Rule(-0.5, 0.0)


@dataclass(frozen=True)
class Claim:
    """A claim or a question of the paper, and how it is judged."""

    statement: str
    source: str
    parts: Callable[[Results], Iterator[Part]]
    experiments: tuple[str, ...] = ("decay",)


@dataclass(frozen=True)
class Judged:
    """A claim, judged in one setting."""

    claim: Claim
    setting: Setting
    parts: tuple[Part, ...]

    @property
    def verdict(self) -> Verdict:
        """The verdicts of the parts, combined."""
        return combined(part.verdict for part in self.parts)


def judge_claims(setting: Setting, results: Iterable[Result]) -> list[Judged]:
    """Judges every claim that the setting has the experiments for, by those of its runs that have finished."""
    by_config = {result.config: result for result in results}
    found: Results = {
        name: [by_config.get(config, Result(config, {})) for config in sweep]
        for name, sweep in setting.experiments.items()
    }
    asked = (claim for claim in CLAIMS if set(claim.experiments) <= set(setting.experiments))
    return [Judged(claim, setting, tuple(claim.parts(found))) for claim in asked]


def corrected(judged: Sequence[Judged]) -> list[Judged]:
    """Corrects the chances of all rows that could be judged for their number, by Holm's method for either verdict."""
    rows = [part for each in judged for part in each.parts if part.alone.judges]
    by_level = {level: holm([part.chance(level) for part in rows]) for level in FAVOURABLE}
    found = {
        id(part): {level: chances[place] for level, chances in by_level.items()} for place, part in enumerate(rows)
    }
    return [
        replace(each, parts=tuple(replace(part, corrected=found.get(id(part), {})) for part in each.parts))
        for each in judged
    ]


_COLLAPSE = {"nc1": "NC1", "nc2_equinorm": "NC2, norms", "nc2_cosine": "NC2, cosines", "nc3": "NC3"}


def _collapse(
    results: Sequence[Result], about: str = "", keys: Sequence[str] = tuple(_COLLAPSE), **fields: object
) -> Iterator[Part]:
    """The ratio of each metric with decay to the same without."""
    for key in keys:
        values = numbers(results, f"train.{key}", **fields)
        quantity = f"{_COLLAPSE[key]} (`{key}`){about}: with decay over without"
        yield Part(quantity, HALVED, compared(decayed(values), undecayed(values)))


def _decay_for_nc1(results: Results) -> Iterator[Part]:
    return _collapse(results["decay"], keys=("nc1",))


def _decay_for_nc2(results: Results) -> Iterator[Part]:
    return _collapse(results["decay"], keys=("nc2_equinorm", "nc2_cosine"))


def _decay_for_nc3(results: Results) -> Iterator[Part]:
    return _collapse(results["decay"], keys=("nc3",))


def _decay_for_nc4(results: Results) -> Iterator[Part]:
    values = numbers(results["decay"], "train.nc4")
    found = compared(decayed(values), undecayed(values), difference_interval)
    without = [value for value in values.get(0.0, {}).values() if math.isfinite(value)]
    floor = -sum(without) / len(without) if without else -math.inf  # of what is without, all can go
    yield Part("NC4 (`nc4`), a share of samples: with decay less without", SHARE, found, floor)


def _same_loss(results: Results) -> Iterator[Part]:
    yield Part("training error with decay", FITTED, alone(decayed(numbers(results["decay"], "train.error"))))
    values = numbers(results["decay"], "train.loss_data")
    found = compared(decayed(values), undecayed(values))
    yield Part("square loss (`loss_data`): with decay over without", Rule(2.0, 5.0, contradicted=False), found)


def _no_interpolation(results: Results) -> Iterator[Part]:
    values = numbers(results["decay"], "train.sqi_gap")
    found = compared(undecayed(values), decayed(values), quotient_interval)  # where it interpolates, ε is of any sign
    yield Part("gap ε to interpolation (`sqi_gap`): without decay over with", HALVED, found)
    residuals = decayed(numbers(results["decay"], f"{_CRITICAL}: {LAYERS}"))
    yield Part("λ‖W_l‖² against (1/N) Σ⟨y − f, f⟩, the worst layer: residual", RESIDUAL, alone(residuals))


# Readings and rows of the theory table.
_CRITICAL, _OF_SQI, _OF_THEOREM = (
    "at a critical point",
    "symmetric quasi-interpolation itself",
    "if SQI holds: Theorem 2.3",
)
_THEOREM = {
    "W, Eq. 2": "W ∝ centred means (Eq. 2)",
    "‖W^c‖², Eq. 3": "‖W^c‖² (Eq. 3)",
    "mean cos(W^c, W^c')": "cos(W^c, W^c') = −1/(C−1) (Eq. 4)",
    "NC3": "NC3 = 0",
}

_SQI = {
    "spread of ε over samples": "spread of ε over samples, over ε",
    "(C−1) × off-class output": "(C−1) × mean off-class output against ε",
    "(C−1) × spread of off-class outputs": "(C−1) × spread of off-class outputs, over ε",
}


def _residuals(results: Sequence[Result], reading: str, rows: Mapping[str, str], **fields: object) -> Iterator[Part]:
    """The residuals of these rows of the theory table."""
    for name, words in rows.items():
        values = decayed(numbers(results, f"{reading}: {name}", **fields))
        yield Part(f"{words}: residual", RESIDUAL, alone(values))


def _theorem(results: Results) -> Iterator[Part]:
    return _residuals(results["decay"], _OF_THEOREM, _THEOREM)


def _theorem_with_free_bias(results: Results) -> Iterator[Part]:
    return _residuals(results["bias"], _OF_THEOREM, _THEOREM, bias="free")


def _quasi_interpolation(results: Results) -> Iterator[Part]:
    return _residuals(results["decay"], _OF_SQI, _SQI)


def _quasi_interpolation_with_free_bias(results: Results) -> Iterator[Part]:
    return _residuals(results["bias"], _OF_SQI, _SQI, bias="free")


def _biases(results: Results) -> Iterator[Part]:
    words = {"free": "classifier's bias free", "decayed": "classifier's bias decayed", "all": "biases in every layer"}
    for bias, about in words.items():
        yield from _collapse(results["bias"], f", {about}", bias=bias)


def _random_labels(results: Results) -> Iterator[Part]:
    errors = numbers(results["labels"], "train.error", label_noise=1.0)
    yield Part("training error with decay", FITTED, alone(decayed(errors)))
    yield from _collapse(results["labels"], label_noise=1.0)


def _small_margins(results: Results) -> Iterator[Part]:
    for noise in (0.5, 1.0):
        about = f"label noise {noise:g} over true labels"
        for key, words, rule in (
            ("normalized_margin", "least margin over Π‖W_l‖", HALVED),
            ("train.nc1", "NC1 (`nc1`)", Rule(1.5, 2.0)),  # not much larger is enough
        ):
            top, bottom = (decayed(numbers(results["labels"], key, label_noise=share)) for share in (noise, 0.0))
            yield Part(f"{words}: {about}", rule, compared(top, bottom))


def _correlated(quantity: str, first: Numbers, second: Numbers) -> Part:
    found = rank_correlation(first, second)
    return Part(quantity, CORRELATED, (found,), by_chance=chance_of_ranks(len(first), found.interval.seeds, CORRELATED))


def _norm_and_margin(results: Results) -> Iterator[Part]:
    norms, margins = (decayed(numbers(results["decay"], key)) for key in ("classifier_norm", "train.margin_mean"))
    yield _correlated("rank correlation of ‖W_L‖ and minus the mean margin over λ > 0", norms, negated(margins))


def _generalization(results: Results) -> Iterator[Part]:
    nc1, accuracy = (numbers(results["decay"], key) for key in ("train.nc1", "test.accuracy"))
    yield _correlated("rank correlation of NC1 and test accuracy over λ", nc1, accuracy)


def _cross_entropy(results: Results) -> Iterator[Part]:
    return _collapse(results["cross-entropy"])


def _imbalance(results: Results) -> Iterator[Part]:
    for kind in ("step", "exponential"):
        small, equal = (
            {key: decayed(numbers(of, key, **fields)) for key in ("minority_norm", "minority_cosine")}
            for of, fields in ((results["imbalance"], {"imbalance": kind}), (results["decay"], {}))
        )
        norms = compared(small["minority_norm"], equal["minority_norm"])
        yield Part(f"‖W^c‖ of the small classes over the large: {kind} imbalance over balanced", HALVED, norms)
        balanced = {decay: equal["minority_cosine"].get(decay, {}) for decay in small["minority_cosine"]}
        cosines = compared(balanced, small["minority_cosine"], difference_interval)
        yield Part(f"mean cosine of the small classes' rows W^c: balanced less {kind}", Rule(-0.2, 0.0), cosines)


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "Weight decay is needed for NC1: within-class variability collapses.",
        "Section 3, Figures 1 and 2",
        _decay_for_nc1,
    ),
    Claim(
        "Weight decay is needed for NC2: the class means become a simplex ETF.",
        "Section 3, Figures 1 and 2",
        _decay_for_nc2,
    ),
    Claim(
        "Weight decay is needed for NC3: the classifier aligns with the class means.",
        "Section 3, Figures 1 and 2",
        _decay_for_nc3,
    ),
    Claim(
        "Weight decay is needed for NC4: decisions become those of the nearest class mean.",
        "Section 3, Figures 1 and 2",
        _decay_for_nc4,
    ),
    Claim("The same training loss is reached with and without weight decay.", "Sections 1 and 3", _same_loss),
    Claim("Solutions with weight decay do not interpolate the data.", "Lemmas 2.1 and 2.2", _no_interpolation),
    Claim("Theorem 2.3's equations hold at the end of training.", "Theorem 2.3", _theorem),
    Claim(
        "Theorem 2.3's equations hold at the end of training with a classifier bias that does not decay.",
        "Theorem 2.3, and where it can hold exactly",
        _theorem_with_free_bias,
        ("bias",),
    ),
    Claim("Is symmetric quasi-interpolation satisfied?", "Section 4, open question", _quasi_interpolation),
    Claim(
        "Is symmetric quasi-interpolation satisfied with a classifier bias that does not decay?",
        "Section 4, open question",
        _quasi_interpolation_with_free_bias,
        ("bias",),
    ),
    Claim("Do networks with biases collapse, too?", "Section 4, open question", _biases, ("bias",)),
    Claim("Networks trained on random labels collapse, too.", "Section 4, prediction", _random_labels, ("labels",)),
    Claim(
        "Solutions that do not have large margins collapse, too.", "Section 4, prediction", _small_margins, ("labels",)
    ),
    Claim(
        "The length of the classifier's rows grows with the training margin.", "Section 4, prediction", _norm_and_margin
    ),
    Claim(
        "Is collapse good for generalisation: does the test accuracy rise as NC1 falls?",
        "Section 4, open question",
        _generalization,
    ),
    Claim(
        "Neural collapse appears under the cross-entropy.",
        "Section 1, after Papyan, Han and Donoho (2020)",
        _cross_entropy,
        ("cross-entropy",),
    ),
    Claim(
        "With imbalanced classes the small ones collapse into one another.",
        "Section 1, after Fang et al. (2021)",
        _imbalance,
        ("imbalance", "decay"),
    ),
    Claim(
        "Collapse needs coupled weight decay: at one training loss it has come further than with decoupled decay.",
        "Zhao et al. (2026)",
        coupling.coupled_over_decoupled,
        coupling.OPTIMIZERS,
    ),
    Claim(
        "Momentum speeds up collapse beyond what longer steps do.",
        "Zhao et al. (2026)",
        coupling.momentum_over_none,
        coupling.MOMENTA,
    ),
)
