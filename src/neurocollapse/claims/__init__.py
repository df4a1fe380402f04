"""The paper's claims and open questions: experiments, rules that were fixed before them, and verdicts in numbers."""

from .experiments import FULL, QUICK, Setting
from .kept import RESULTS, read_results, write_results
from .page import claims_page, claims_values
from .results import Result, notes_on, results_of
from .statements import CLAIMS, Claim, Judged, judge_claims
from .verdicts import Finding, Interval, Part, Verdict

__all__ = [
    "CLAIMS",
    "FULL",
    "QUICK",
    "RESULTS",
    "Claim",
    "Finding",
    "Interval",
    "Judged",
    "Part",
    "Result",
    "Setting",
    "Verdict",
    "claims_page",
    "claims_values",
    "judge_claims",
    "notes_on",
    "read_results",
    "results_of",
    "write_results",
]
