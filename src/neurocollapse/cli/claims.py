"""`claims`: every claim of the paper with its verdict."""

from pathlib import Path

from .._errors import InputError
from .._files import to_json
from .options import Folder, MachineOptions
from .printing import out_console, print_frame


def claims(
    machines: MachineOptions,
    quick: bool = False,
    full: bool = False,
    out: Folder = Path("results/claims"),
    read: bool = False,
    dry_run: bool = False,
    json: bool = False,
) -> int:
    """Judge each claim of the paper, and its open questions: verdicts with seeds and intervals.

    Runs what each needs, and writes claims.md and claims.json into the folder, and each finished run's numbers into
    results.jsonl. Run it again to go on where it was stopped: a run that is in results.jsonl, brought from another
    machine or with this project, needs neither its folder nor to be run again.

    Example: neurocollapse claims --quick

    Args:
        machines: Where the runs are trained, and how.
        quick: All claims on the 5,000 bundled digits.
        full: These, and those about weight decay on all of MNIST and CIFAR-10: hours, or a GPU.
        out: Folder for the runs, the page and the verdicts.
        read: Train nothing: judge by the runs that have finished.
        dry_run: Print how long it would take, and stop; data that are not there yet are downloaded for it.
        json: Print the verdicts as JSON, where NaN and infinity are the strings "nan", "inf", "-inf", and null is what
            there is none of.
    """
    import pandas as pd

    from ..claims import FULL, QUICK, claims_values, judge_all, plan_claims

    if quick == full:
        raise InputError(
            "claims takes either --quick or --full: all claims on the 5,000 bundled digits, or these and those about "
            "weight decay on all of MNIST and CIFAR-10, which takes hours, or a GPU"
        )
    settings = FULL if full else QUICK
    if dry_run:
        plan_claims(settings, out, progress=True, **vars(machines))
        return 0
    command = f"neurocollapse claims --{'full' if full else 'quick'}"
    judged, failures = judge_all(settings, out, read=read, command=command, progress=True, **vars(machines))
    if json:
        print(to_json(claims_values(judged), indent=2))
    else:
        rows = [{"claim": one.claim.statement, "on": one.setting.name, "verdict": str(one.verdict)} for one in judged]
        print_frame(pd.DataFrame(rows), "claims")
        out_console.print(f"every number is in {out / 'claims.md'}")
    return 1 if failures else 0
