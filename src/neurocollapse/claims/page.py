"""Writes verdicts as a Markdown page, and as plain values for JSON."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .statements import CLAIMS, Judged
from .verdicts import ERROR, Interval

_INTRODUCTION = f"""\
# The paper's claims, judged

Each claim of Rangamani and Banburski-Fahey (2022), and each question that it leaves open: what was measured, over how
many seeds, and a verdict. This page is written by the command below. The rules, the effect sizes, the seeds and the
values of λ were fixed in `src/neurocollapse/claims` before any of these runs was made; none is chosen by its result.

Every quantity is made so that it is small where the claim holds: a ratio to λ = 0 seed by seed, a difference, a
relative residual. Intervals are Student's t over seeds, of the mean or, for ratios, of the geometric mean; within a row
they share an error of {ERROR:.0%} (Bonferroni). A run that has not finished is in no interval, and the number of seeds
says so. nan is a ratio of numbers that are not all positive (the gap ε of networks that interpolate may lie just below
0), or a number that a run does not have; an interval without width is of seeds that agree exactly, as rank correlations
over few values of λ may. One rule makes them a verdict, with two bounds for each quantity:

- **holds**: an interval is wholly below the first bound, and none is wholly above the second;
- **holds in part**: an interval is wholly below the second bound;
- **does not hold here**: all are wholly above the first bound, and none is wholly below the second;
- **undecided**: anything else; **no runs**: none of those needed has finished.

Where the claim is that something is possible, (possible), an interval above the second bound does not speak against it.
A claim is what its rows agree in; otherwise it holds in part if any row does, and else is undecided.
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
    lines = ["| on | quantity | bounds | found | verdict |", "|---|---|---|---|---|"]
    for each in of_claim:
        for part in each.parts:
            found = "; ".join(f"{finding.label}: {shown(finding.interval)}" for finding in part.findings) or "no runs"
            rule = part.rule
            bounds = f"{rule.strong:g}, {rule.weak:g}{'' if rule.contradicted else ' (possible)'}"
            lines.append(f"| {each.setting.name} | {part.quantity} | {bounds} | {found} | {part.verdict} |")
        lines.append(f"| **{each.setting.name}** | | | | **{each.verdict}** |")
    return lines


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
                    "findings": [{"label": found.label, **vars(found.interval)} for found in part.findings],
                }
                for part in each.parts
            ],
        }
        for each in judged
    ]
