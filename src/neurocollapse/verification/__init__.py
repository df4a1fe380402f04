"""Theory held against networks: in memory, on disk, and problems with exact answers."""

from .gathering import VerificationError, gather_evidence
from .runs import ALONG, THEORY_VERSION, TheoryFile, objective_of_run, verify_run, verify_runs
from .verifying import verify

__all__ = [
    "ALONG",
    "THEORY_VERSION",
    "TheoryFile",
    "VerificationError",
    "gather_evidence",
    "objective_of_run",
    "verify",
    "verify_run",
    "verify_runs",
]
