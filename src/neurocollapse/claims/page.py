"""Writes verdicts as a Markdown page, and as plain values for JSON."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .statements import CLAIMS, Judged
from .verdicts import ERROR, Interval, Part, Verdict

_INTRODUCTION = f"""\
# The paper's claims, judged

Each claim of Rangamani and Banburski-Fahey (2022), each question that it leaves open, and two claims of Zhao et al.
(2026) on the optimiser: what was measured, over how many seeds, and a verdict. This page is written by the command
below. The quantities, the effect sizes, the seeds and the values of λ were fixed in `src/neurocollapse/claims` before
any of these runs was made; none is chosen by its result. Four things were added after the runs of the project's own
page. Three can only take a verdict back: what cannot be ordered, and what chance would do, is not judged, and chances
are corrected across all rows. The fourth compares the gap ε by differences, where its ratio was nan.

Every quantity is made so that it is small where the claim holds: a ratio to λ = 0 seed by seed, a difference, a
relative residual. Intervals are Student's t over seeds, of the mean or, for ratios, of the geometric mean; for the gap
ε, which may lie just below 0 where a network interpolates, of the ratio of means, by differences (Fieller). Within a
row they share an error of {ERROR:.0%} (Bonferroni). A run that has not finished is in no interval, and the number of
seeds says so. nan is a ratio of numbers that are not all positive, or a number that a run does not have. One rule makes
intervals a verdict, with two bounds for each quantity:

- **holds**: an interval is wholly below the first bound, and none is wholly above the second;
- **holds in part**: an interval is wholly below the second bound;
- **does not hold here**: all are wholly above the first bound, and none is wholly below the second;
- **nothing to order**: the quantity could not get below the first bound whatever decay did, as where samples of which
  0.1% are wrong cannot become 0.5% fewer;
- **too few runs to judge**: without any effect the rule would come out so in more than {ERROR:.0%} of cases.
  Student's t does in {ERROR / 2:.1%}, if numbers over seeds are normal; for rank correlations all orders are counted,
  and with two values of λ and three seeds all agree one time in eight;
- **undecided**: anything else; **no runs**: none of those needed has finished.

The chance of a verdict for the claim is that of numbers as far below its bound if the quantity lies at the bound, for
rank correlations that of the verdict without any order: first within the row, then with Holm's correction for all rows
of this page that could be judged. Where that is above {ERROR:.0%}, what holds holds in part if its chance to do that
allows it, and else is undecided. Where the claim is that something is possible, (possible), an interval above the
second bound does not speak against it. A claim is what its rows agree in, without those that could not be judged;
otherwise it holds in part if any row does, and else is undecided.
"""


def claims_page(judged: Sequence[Judged], command: str, notes: Mapping[str, Iterable[str]] | None = None) -> str:
    """Writes all claims in Markdown: an overview with `notes` on the settings, by name, then the rows of each claim."""
    settings = {each.setting.name: each.setting.words for each in judged}
    verdicts = {(each.claim.statement, each.setting.name): each.verdict for each in judged}
    lines = [_INTRODUCTION, "```", command, "```", ""]
    for name, words in settings.items():
        lines += [f"- `{name}`: {words}.", *(f"  - {note}" for note in (notes or {}).get(name, ()))]
    lines += ["", f"| claim | {' | '.join(settings)} |", f"|---|{'---|' * len(settings)}"]
    for claim in CLAIMS:
        cells = [str(verdicts.get((claim.statement, setting), "")) for setting in settings]
        lines.append(f"| {claim.statement} | {' | '.join(cells)} |")
    for claim in CLAIMS:
        of_claim = [each for each in judged if each.claim is claim]
        if of_claim:
            lines += ["", f"## {claim.statement}", "", f"{claim.source}.", ""]
            lines += _table(of_claim)
    return "\n".join(lines) + "\n"


def _table(of_claim: Iterable[Judged]) -> list[str]:
    lines = ["| on | quantity | bounds | found | chance | verdict |", "|---|---|---|---|---|---|"]
    for each in of_claim:
        for part in each.parts:
            found = "; ".join(f"{finding.label}: {shown(finding.interval)}" for finding in part.findings) or "no runs"
            rule = part.rule
            bounds = f"{rule.strong:g}, {rule.weak:g}{'' if rule.contradicted else ' (possible)'}"
            chances = ", ".join(f"{chance:.1g}" for chance in _chances(part).values() if chance is not None)
            row = (each.setting.name, part.quantity, bounds, found, chances, part.verdict)
            lines.append(f"| {' | '.join(row)} |")
        lines.append(f"| **{each.setting.name}** | | | | | **{each.verdict}** |")
    return lines


def _chances(part: Part) -> dict[str, float | None]:
    """The chance of a verdict for the claim, or of the least that was taken back, by its row and corrected."""
    if not part.alone.favours:
        return {"chance": None, "corrected_chance": None}
    level = part.verdict if part.verdict.favours else Verdict.IN_PART
    return {"chance": part.chance(level), "corrected_chance": part.corrected.get(level)}


def shown(interval: Interval) -> str:
    """Formats an interval, such as `0.31 (0.22 to 0.44; 5 seeds)`."""
    bounds = "" if math.isnan(interval.low) else f"{interval.low:.3g} to {interval.high:.3g}; "
    return f"{interval.estimate:.3g} ({bounds}{interval.seeds} seed{'' if interval.seeds == 1 else 's'})"


def claims_values(judged: Iterable[Judged]) -> list[dict[str, Any]]:
    """The verdicts as plain values for JSON."""
    return [
        {
            "claim": each.claim.statement,
            "source": each.claim.source,
            "setting": each.setting.name,
            "verdict": str(each.verdict),
            "parts": [
                {
                    "quantity": part.quantity,
                    "strong": part.rule.strong,
                    "weak": part.rule.weak,
                    "contradicted": part.rule.contradicted,
                    "verdict": str(part.verdict),
                    **_chances(part),
                    "findings": [{"label": found.label, **vars(found.interval)} for found in part.findings],
                }
                for part in each.parts
            ],
        }
        for each in judged
    ]
